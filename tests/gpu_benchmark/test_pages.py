"""The benchmark's words: the calls to make, the last page, the setting to use; and the files of a part's hash."""

import importlib
import json
import re

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from benchmarks.gpu import calls, code, plot
from benchmarks.gpu.parts import PARTS, wanted
from benchmarks.gpu.report import write_report
from benchmarks.gpu.setting import best, fastest, settings

pytestmark = pytest.mark.torch
GPU = "NVIDIA TEST"
FACTS = {"gpu": GPU, "preset": "dvgwm_5b", "torch": "2.11.0", "commit": "abc"}
FORWARDS = {  # seconds of a preview's and a refiner's forward, error, GB of weights
    "diffusers eager": (0.358, 0.355, 4e-4, 14.0),
    "diffusers compile": (0.245, 0.266, 4e-4, 14.0),
    "bfloat16_kernel": (0.226, 0.251, 4e-4, 14.0),
    "fp8_kernel": (0.166, 0.218, 7e-4, 8.0),
    "fp8_8bit": (0.164, 0.216, 9e-4, 8.0),
}
DECODES = {"diffusers eager": 2.12, "bfloat16": 0.686}


def forward(stage: str, variant: str, index: int, calls_: int, **more):
    seconds, error, gb = FORWARDS[variant][index], *FORWARDS[variant][2:]
    return {
        "part": stage, "name": f"{stage} forward", "variant": variant, "calls": calls_, "stage_s": calls_ * seconds,
        "median_s": seconds, "floor_s": 0.7 * seconds, "relative_l2": error, "weight_bytes": gb * 0.5e9,
        "working_bytes": 2e9, **more,
    }  # fmt: skip


def recorded(file, *more):
    rows = [forward("preview", name, 0, 50) for name in FORWARDS] + [forward("refine", name, 1, 4) for name in FORWARDS]
    rows += [
        {"part": "decode", "name": "decode", "variant": name, "median_s": s, "working_bytes": 8e9}
        for name, s in DECODES.items()
    ]
    file.write_text("".join(json.dumps({**row, **FACTS}) + "\n" for row in (*rows, *more)))
    return file


def test_rows_of_other_code_are_shown_as_old(tmp_path):
    """The first form of this benchmark named no network in its rows: they were all passed over."""
    file = recorded(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({name: row[name] for name in row if name != "preset"}) + "\n" for row in rows))
    page = write_report(file, FACTS)
    assert "Neither preview nor refiner is measured yet." in page
    old = page.split("Old rows, of other code")[1]
    assert "| fp8_kernel | 8.30 s |" in old
    assert fastest(file, GPU, "dvgwm_5b", True) == "fp8_kernel"
    assert "Old rows" not in write_report(recorded(tmp_path / "new.jsonl"), FACTS)


def test_a_settings_plan_is_its_steps_and_its_decoder(tmp_path):
    found = {each.name: each for each in settings(recorded(tmp_path / "rows.jsonl"), GPU, "dvgwm_5b")}
    assert list(found) == list(FORWARDS), "diffusers' first"
    ours = found["fp8_kernel"]
    assert ours.plan_s == pytest.approx(50 * 0.166 + 4 * 0.218 + 0.686)
    assert ours.floor_s == pytest.approx(0.7 * (50 * 0.166 + 4 * 0.218))
    assert ours.gb == pytest.approx(8.0 + 8.0), "weights, and the stage that takes most"
    assert found["diffusers eager"].plan_s == pytest.approx(50 * 0.358 + 4 * 0.355 + 2.12)
    assert found["diffusers compile"].decode_s == 2.12, "its decoder was not compiled: the eager one's"
    assert settings(tmp_path / "rows.jsonl", "another", "dvgwm_5b") == ()
    assert settings(tmp_path / "rows.jsonl", GPU, "test_tiny") == ()


def test_of_those_that_are_as_fast_the_most_exact_is_used(tmp_path):
    file = recorded(tmp_path / "rows.jsonl")
    assert best(settings(file, GPU, "dvgwm_5b")).name == "fp8_kernel", "8bit is 1.2 % faster and less exact"
    slower = forward("preview", "fp8_kernel", 0, 50, stage_s=50 * 0.18)
    assert best(settings(recorded(file, slower), GPU, "dvgwm_5b")).name == "fp8_8bit"
    refused = [{**forward("preview", name, 0, 50), "stage_s": None} for name in ("fp8_kernel", "fp8_8bit")]
    assert best(settings(recorded(file, *refused), GPU, "dvgwm_5b")).name == "bfloat16_kernel"


def test_before_anything_is_measured_the_library_knows_what_the_device_has(tmp_path):
    assert fastest(tmp_path / "none.jsonl", GPU, "dvgwm_5b", True).startswith("fp8")
    assert fastest(tmp_path / "none.jsonl", GPU, "dvgwm_5b", False).startswith("bfloat16")


def test_the_last_page_says_what_to_use_and_what_did_not_run(tmp_path):
    plan = {
        "part": "plan",
        "name": "plan",
        "variant": "fp8_kernel",
        "median_s": 10.1,
        "key": "k",
        "uncaptured": {"policy.pt2": "no"},
    }
    stage = {"part": "plan", "name": "plan stage", "variant": "preview", "median_s": 8.4, "key": "k"}
    refused = {"part": "decode", "name": "decode", "variant": "diffusers compile", "refused": "out of memory"}
    file = recorded(tmp_path / "rows.jsonl", stage, plan, refused)
    page = write_report(file, FACTS)
    assert file.with_suffix(".md").read_text().strip() == page
    assert f"# dvgwm_5b on {GPU}" in page
    assert "| fp8_kernel | 8.30 s | 872 ms | 686 ms | 9.86 s | 0.70 | 9.0 x | 7.0e-04 | 16.0 GB |" in page
    assert "from a bundle in fp8_kernel: 10.10 s a plan, 8.8 x faster than the paper's 88.7 s" in page
    assert "preview 8.40 s" in page
    assert "Without a captured graph: policy.pt2 (no)." in page
    assert (
        "`python export/build_engines.py --preset dvgwm_5b --backend torch --static --precision fp8_kernel` (9.86 s"
        in page
    )
    assert "Did not run: decode, diffusers compile: out of memory" in page
    assert file.with_suffix(".png").stat().st_size > 10_000
    other = write_report(file, {**FACTS, "gpu": None})
    assert "a trial of the code" in other
    assert "measure preview, refine and decode first" in other


def test_another_presets_plan_is_not_set_against_the_papers(tmp_path):
    file = recorded(tmp_path / "rows.jsonl")
    file.write_text(file.read_text().replace("dvgwm_5b", "test_tiny"))
    page = write_report(file, {**FACTS, "preset": "test_tiny"})
    assert "not its work" in page
    assert not re.search(r"[\d.]+ x \|", page)


def test_of_tiles_the_best_is_drawn(tmp_path):
    rows = [
        {"part": "attention", "name": name, "variant": variant, "rate": rate, **FACTS}
        for name, variant, rate in (
            ("attention preview", "cudnn", 3e14), ("attention preview", "cudnn", 4e14),
            ("attention preview kernel tile", "128x64x8x3", 4.2e14), ("attention preview kernel tile", "64x64x4x3", 3.1e14),
        )
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot.attention_rates(file, GPU, "dvgwm_5b") == {"preview": {"cudnn": 4e14, "kernel 128x64x8x3": 4.2e14}}
    page = write_report(file, FACTS)
    assert "Attention at preview, TFLOP/s: kernel 128x64x8x3 420, cudnn 400." in page


def test_the_plan_of_calls_fits_the_time_and_names_what_to_bring(tmp_path):
    text = calls.told(tmp_path / "none.jsonl", list(PARTS))
    minutes = [float(each) for each in re.findall(r"^call \d+, ([\d.]+) min", text, re.MULTILINE)]
    assert minutes
    assert max(minutes) < 9
    total = float(re.search(r"([\d.]+) min in all", text).group(1))
    assert total == pytest.approx(sum(minutes), abs=0.2)
    assert total <= 28
    asked = re.findall(r"--only (.+)", text)
    assert " ".join(asked).split() == list(PARTS)
    for library in ("diffusers", "msgspec", "torch", "triton"):
        assert re.search(rf"^it imports .*\b{library}\b", text, re.MULTILINE)
    assert wanted("PIL") == "pillow>=10"
    assert wanted("cuda").startswith("cuda-core")


def test_minutes_that_were_measured_replace_those_that_were_thought(tmp_path):
    file = tmp_path / "rows.jsonl"
    done = {"part": "one_stage", "name": "done", "wall_s": 480.0, "resumed": False, **FACTS}
    rest = {**done, "wall_s": 6.0, "resumed": True}
    file.write_text("".join(json.dumps(row) + "\n" for row in (done, rest)))
    text = calls.told(file, ["kernels", "one_stage"])
    assert len(re.findall(r"^call", text, re.MULTILINE)) == 2
    assert "one_stage   8.0 min" in text


def test_a_parts_hash_is_of_what_it_runs_and_of_nothing_else(tmp_path, monkeypatch):
    ours = {path.relative_to(code.ROOT).as_posix() for path in code.files_of("benchmarks.gpu.attention")}
    assert {
        "kernels/attention.py",
        "kernels/variant.py",
        "benchmarks/gpu/measure.py",
        "runtime/backends/cuda.py",
    } <= ours
    assert not {path for path in ours if path.startswith(("robots/", "models/", "training/"))}
    denoisers = {path.relative_to(code.ROOT).as_posix() for path in code.files_of("benchmarks.gpu.denoisers")}
    assert {"models/fused.py", "models/dit.py", "kernels/modulate.py"} <= denoisers
    assert "export/graphs.py" in {
        path.relative_to(code.ROOT).as_posix() for path in code.files_of("benchmarks.gpu.product")
    }


def test_a_change_of_a_file_is_a_change_of_the_hashes_that_it_is_in(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name, text in (
        ("a", "from . import b"),
        ("b", "import json\nimport torch\ndef f():\n    import av\n"),
        ("c", ""),
    ):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    before = {name: code.hash_of(f"benchmarks.{name}") for name in "abc"}
    assert code.libraries_of("benchmarks.a") == ("torch",), "not what is imported when it is wanted"
    (folder / "b.py").write_text("import numpy")
    code._imports.cache_clear()
    after = {name: code.hash_of(f"benchmarks.{name}") for name in "abc"}
    assert [name for name in "abc" if before[name] != after[name]] == ["a", "b"]


@pytest.mark.parametrize("path", sorted((code.ROOT / "benchmarks" / "gpu").glob("*.py")), ids=lambda path: path.stem)
def test_what_is_imported_on_a_gpu_alone_is_there(path):
    for name, _ in code._imports(path):
        module, _, member = name.rpartition(".")
        if name.split(".")[0] in code.OURS and code._path(name) is None:
            assert hasattr(importlib.import_module(module), member), f"{path.name} imports {name}"
