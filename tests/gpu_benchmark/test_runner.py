"""No machine is wasted: a part costs itself alone if it dies, hangs, lacks something or is cut off; the next run goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

pytestmark = [pytest.mark.torch, pytest.mark.slow]
ATTENTION = {"flash", "kernel", "8bit", "fp8"}
AT = """
import os, signal, sys, time

def meddle(event, arguments):
    if event == "dvgwm.benchmark" and arguments == {at}:
        {do}

sys.addaudithook(meddle)
"""
WITHOUT = """
import sys

class Without:
    '''Finds what the others find, but for some.'''
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in {names} else self.finder.find_spec(name, *rest)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def rows(out: Path, name: str | None = None) -> list[dict]:
    lines = out.read_text().splitlines() if out.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in found if name in (None, row["name"])]


def measured(out: Path) -> dict[str, dict]:
    return {row["variant"]: row for row in rows(out, "attention small")}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("os.abort()", "its process died of SIGABRT"),
        ("os._exit(3)", "its process ended with exit code 3"),
        ("os._exit(75)", "its process spoiled"),
        ("time.sleep(1000)", "its process had no end after 8 s"),
        (
            "sys.modules['benchmarks.gpu.attention'].OPERATORS['8bit'] = lambda *given: 1 / 0",
            "ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_variant_that_ends_its_process_costs_itself_alone(run, meddle, tmp_path, do, said):
    out = tmp_path / "rows.jsonl"
    env = meddle(AT.format(at=("attention small", "8bit"), do=do))
    code, text = run("--only", "attention", "--out", str(out), "--variant-limit", "8", env=env)
    assert code == 0, text
    found = measured(out)
    assert found.keys() == ATTENTION
    assert found["8bit"]["refused"] == said
    assert all(found[variant]["median_s"] > 0 for variant in ATTENTION - {"8bit"})
    assert f"Did not run: attention small, 8bit: {said}" in text
    assert len(rows(out, "done")) == 1


@pytest.mark.thorough
def test_what_dies_outside_any_variant_is_told_and_the_next_part_begins(run, meddle, tmp_path):
    out = tmp_path / "rows.jsonl"
    env = meddle(
        AT.format(at=("copy", "torch"), do="os.remove(" + repr(str(out.with_suffix(".running"))) + "); os._exit(4)")
    )
    code, text = run("--only", "ceilings", "attention", "--out", str(out), env=env)
    assert code == 1
    assert "not done: ceilings: ended with exit code 4 outside any variant" in text
    assert measured(out).keys() == ATTENTION


@pytest.mark.thorough
def test_a_note_of_a_run_that_was_killed_is_not_what_the_next_one_dies_of(run, meddle, tmp_path):
    out = tmp_path / "rows.jsonl"
    out.with_suffix(".running").write_text(json.dumps(["ceilings", "copy", "torch"]))
    env = meddle("""
        import os, sys

        class Ends:
            def find_spec(name, *rest):
                if name == "benchmarks.gpu.kernels":
                    os._exit(4)

        sys.meta_path.insert(0, Ends)
    """)
    code, text = run("--only", "ceilings", "--out", str(out), env=env)
    assert code == 1
    assert "not done: ceilings: ended with exit code 4 outside any variant" in text
    assert rows(out) == []


@pytest.mark.thorough
def test_killed_in_the_middle_it_goes_on_at_the_next_variant(begin, run, meddle, tmp_path):
    out = tmp_path / "rows.jsonl"
    slow = meddle(AT.format(at=("attention small", "fp8"), do="time.sleep(60)"))
    process = begin("--only", "ceilings", "attention", "--out", str(out), env=slow)
    end = time.monotonic() + 120
    while len(measured(out)) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    with out.open("a") as file:
        file.write('{"part": "attention", "name": "attention sm')  # what it was writing
    before = rows(out)
    code, text = run("--only", "ceilings", "attention", "--out", str(out))
    assert code == 0, text
    assert rows(out)[: len(before)] == before
    assert text.count("recorded already") == 1, "the ceilings"
    again = [row["name"] for row in rows(out)[len(before) :]]
    assert again == ["attention small", "done"], "the one that it was at"
    assert measured(out).keys() == ATTENTION


def test_the_part_of_a_run_that_is_gone_goes_no_further(begin, meddle, tmp_path):
    out = tmp_path / "rows.jsonl"
    slow = meddle(AT.format(at=("attention small", "kernel"), do="time.sleep(60)"))
    process = begin("--only", "attention", "--out", str(out), env=slow)
    end = time.monotonic() + 120
    while not measured(out):
        assert time.monotonic() < end
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    process.communicate(timeout=60)  # until the part's own end of the pipe is closed
    assert time.monotonic() - began < 30
    assert measured(out).keys() == {"flash"}


@pytest.mark.thorough
def test_a_deadline_is_kept_and_what_was_measured_stays(run, meddle, tmp_path):
    out = tmp_path / "rows.jsonl"
    slow = meddle(AT.format(at=("attention small", "8bit"), do="time.sleep(100)"))
    began = time.monotonic()
    code, text = run("--only", "attention", "kernels", "--out", str(out), "--deadline", "20", env=slow)
    assert time.monotonic() - began < 60
    assert code == 1
    assert "not done: attention: its time is over" in text
    assert "not done: kernels: its time is over" in text
    assert {"flash", "kernel"} == measured(out).keys()


@pytest.mark.thorough
def test_a_change_of_the_code_or_the_machine_invalidates_a_part_and_another_file_is_taken_over(run, tmp_path):
    first, second, third = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "third"))
    assert run("--only", "ceilings", "--out", str(first))[0] == 0
    code, text = run("--only", "ceilings", "--out", str(second), "--after", str(first))
    assert code == 0
    assert "recorded already" in text
    assert rows(second) == rows(first)
    key = rows(first)[0]["key"]
    third.write_text(first.read_text().replace(key, "0" * len(key)))
    code, text = run("--only", "ceilings", "--out", str(third))
    assert "recorded already" not in text
    assert len(rows(third)) == 2 * len(rows(first))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "asked"), [("diffusers", "diffusers>="), ("msgspec", "msgspec>=")])
def test_a_library_that_is_missing_is_named_and_the_rest_goes_on(run, meddle, tmp_path, name, asked):
    out = tmp_path / "rows.jsonl"
    env = meddle(WITHOUT.format(names={name}))
    code, text = run("--only", "plan", "ceilings", "--out", str(out), env=env)
    assert code == 1
    assert f"not done: plan: wants {asked}" in text
    assert len(rows(out, "done")) == 1, "ceilings want neither"
    code, text = run("--plan", env=env, trial=False)
    assert code == 0
    assert f"not here: '{asked}" in text


@pytest.mark.thorough
def test_without_git_and_the_drivers_tool_a_row_says_so(run, meddle, tmp_path):
    out = tmp_path / "rows.jsonl"
    code, text = run("--only", "ceilings", "--out", str(out), env=meddle(PATH=str(tmp_path)))
    assert code == 0, text
    assert all(row["commit"] is None for row in rows(out))


def test_without_a_gpu_it_says_what_to_do(run):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, text = run(trial=False)
    assert code == 2
    assert text.startswith("E2 BENCH_GPU wanted a CUDA GPU, found none; --device cpu")


def test_a_spoiled_context_ends_its_process_and_leaves_a_row(tmp_path, monkeypatch):
    """Without a GPU: the driver's answer is made up, the reaction to it is not."""
    import torch

    from benchmarks.gpu.measure import SPOILED, Bench, running_file
    from benchmarks.gpu.rows import Rows

    def spoiled():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", spoiled)
    monkeypatch.setattr(torch.cuda, "empty_cache", spoiled)
    bench = Bench("cuda", "test_tiny", 1, Rows(tmp_path / "rows.jsonl", "kernels", "key", {}))
    with pytest.raises(SystemExit) as ended, bench.trying("bridge", "kernel"):
        torch.cuda.synchronize()
    assert ended.value.code == SPOILED
    assert "illegal memory access" in rows(tmp_path / "rows.jsonl")[0]["refused"]
    assert not running_file(tmp_path / "rows.jsonl").exists(), "there is nothing that it died of"


@pytest.mark.parametrize("preset", ["a1_tiny", "lvp_14b", "nothing"])
def test_a_preset_without_a_refiner_or_a_vae_is_refused(run, preset):
    code, text = run("--device", "cpu", "--preset", preset, trial=False)
    assert code == 2
    assert text.startswith("E2 BENCH_PRESET wanted --preset of dvgwm_5b")
    assert text.strip().endswith(f"got {preset}")


def test_rows_are_valid_for_code_libraries_machine_and_size_but_not_for_a_commit_alone():
    from benchmarks.gpu.rows import key_of

    here = {"gpu": "NVIDIA TEST", "torch": "2.11.0", "commit": "a"}
    key = key_of("code", here, "dvgwm_5b")
    assert key == key_of("code", {**here, "commit": "b"}, "dvgwm_5b")
    others = [
        ("other", here, "dvgwm_5b"),
        ("code", {**here, "torch": "2.12.0"}, "dvgwm_5b"),
        ("code", here, "test_tiny"),
    ]
    assert key not in {key_of(*other) for other in others}


def test_what_was_measured_is_not_what_a_process_dies_of_later(tmp_path):
    from benchmarks.gpu.measure import Bench, running_file
    from benchmarks.gpu.rows import Rows

    bench = Bench("cpu", "test_tiny", 1, Rows(tmp_path / "rows.jsonl", "kernels", "key", {}))
    with bench.trying("bridge", "kernel"):
        assert json.loads(running_file(bench.rows.file).read_text()) == ["kernels", "bridge", "kernel"]
    assert not running_file(bench.rows.file).exists()
