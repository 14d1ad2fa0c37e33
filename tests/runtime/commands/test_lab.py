"""A lab's file of defaults goes behind the command line, moves no arm, and is told what is wrong with it; a shell completes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dvgwm.runtime.cli import cli
from dvgwm.runtime.commands import lab
from dvgwm.runtime.errors import ConfigError

COMMAND = [sys.executable, "-m", "dvgwm.runtime"]


def run(*words, cwd, **environment):
    return subprocess.run(
        [*COMMAND, *words], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def taken():
    """Two commands that return their options, and the options of both after a file."""

    @click.group(invoke_without_command=True)
    @click.option("--seed", type=int, default=0)
    @click.option("--arm")
    @click.option("--dry-run", is_flag=True)
    @click.option("--live", is_flag=True)
    @click.option("--sampler", "preview_sampler")
    @lab.config_option
    @click.pass_context
    def group(context, **options):
        if context.invoked_subcommand is None:
            lab.drop_defaults(context, options, ("arm", "dry_run"))
            click.echo(json.dumps(options))

    @group.command()
    @click.option("--seed", type=click.IntRange(0, 9), default=1)
    @click.option("--arm")
    @lab.config_option
    @click.pass_context
    def look(context, /, **options):
        click.echo(json.dumps(options | {"told": lab.defaults_in_words(context)}))

    def options(text, *words):
        Path("lab.toml").write_text(text)
        done = CliRunner().invoke(group, words, catch_exceptions=False)
        return json.loads(done.output)

    with CliRunner().isolated_filesystem():
        yield options


def test_the_file_gives_defaults_and_the_command_line_goes_before_it(taken):
    text = 'seed = 3\narm = "here"\nsampler = "ddim_v"\n'
    assert taken(text, "--config", "lab.toml")["seed"] == 3
    assert taken(text, "--config", "lab.toml")["preview_sampler"] == "ddim_v"
    assert taken(text, "--config", "lab.toml", "--seed", "4")["seed"] == 4
    assert taken(text, "--seed", "4", "--config", "lab.toml")["seed"] == 4
    assert taken(f"\ufeff{text}", "--config", "lab.toml")["seed"] == 3, "as an editor on Windows writes it"
    assert taken(text)["seed"] == 0
    seen = taken(text, "look", "--config", "lab.toml")
    assert (seen["seed"], seen["arm"]) == (3, "here")
    assert taken(text, "--config", "lab.toml", "look") == seen
    assert seen["told"] == "lab.toml: seed = 3, arm = here, sampler = ddim_v"


def test_what_does_not_go_with_a_command_is_left_out_of_the_file_alone(taken):
    text = 'arm = "here"\ndry-run = true\n'
    assert taken(text, "--config", "lab.toml") == {
        "seed": 0,
        "arm": None,
        "dry_run": False,
        "live": False,
        "preview_sampler": None,
    }
    assert taken(text, "--config", "lab.toml", "--arm", "there")["arm"] == "there"


@pytest.mark.parametrize(
    ("text", "log_code", "message"),
    [
        ("live = true", "CONFIG_KEY", "live is for the command line alone"),
        ("config = 'x'", "CONFIG_KEY", "config is for the command line alone"),
        ("sede = 3", "CONFIG_KEY", "sede is no option that a file may give; known: arm, dry_run, sampler, seed"),
        ("preview_sampler = 'x'", "CONFIG_KEY", "preview_sampler is no option"),
        ("seed = 'x'", "CONFIG_VALUE", "seed: 'x' is not a valid"),
        ("seed = [1]", "CONFIG_VALUE", "seed: "),
        ("[seed]\na = 1", "CONFIG_VALUE", "seed: wanted a value, got a table"),
        ("seed = ", "CONFIG_FILE", "wanted TOML"),
        ("\x00", "CONFIG_FILE", "wanted TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(taken, text, log_code, message):
    with pytest.raises(ConfigError) as caught:
        taken(text, "--config", "lab.toml")
    assert caught.value.log_code == log_code
    assert message in str(caught.value)
    assert "lab.toml" in str(caught.value)


def test_no_file_moves_an_arm(tmp_path):
    (tmp_path / "lab.toml").write_text('robot = "galaxea_a1"\nlive = true\narm = "127.0.0.1:9"\n')
    done = run("--config", "lab.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("E2 CONFIG_KEY lab.toml: live is for the command line alone")
    assert run("--config", "absent.toml", cwd=tmp_path).stderr.startswith("E2 CONFIG_FILE cannot read absent.toml")


def test_the_doctor_shows_the_file(tmp_path):
    (tmp_path / "lab.toml").write_text("threads = 1\n")
    done = run("doctor", "--config", "lab.toml", cwd=tmp_path)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["config"] == "lab.toml: threads = 1"
    assert "config: lab.toml: threads = 1" in done.stdout
    assert facts["leftovers"] == "no command has left anything unfinished here"
    (tmp_path / "runs/.0007.unfinished").mkdir(parents=True)
    done = run("doctor", cwd=tmp_path)
    assert "left by commands that were killed: runs/.0007.unfinished; `rm -r` removes them" in done.stdout


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("dvgwm-runtime ev", {"plain,evaluate"}),
        ("dvgwm-runtime --robot g", {"plain,galaxea_a1"}),
        ("dvgwm-runtime evaluate --backend on", {"plain,onnx", "plain,onnx_cuda"}),
        ("dvgwm-runtime --conf", {"plain,--config"}),
    ],
)
def test_a_shell_is_answered(tmp_path, words, wanted):
    asked = {"_DVGWM_RUNTIME_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert set(run(cwd=tmp_path, **asked).stdout.splitlines()) == wanted


@pytest.mark.few(1)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_makes_a_shell_complete_is_printed(tmp_path, shell):
    done = run("completion", shell, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "_DVGWM_RUNTIME_COMPLETE" in done.stdout


def test_every_option_of_the_command_line_but_these_may_be_in_a_file():
    assert {"live", "config", "debug"} <= set(lab.NEVER)
    assert any(each.name == "live" for each in cli.params)


@pytest.mark.few(1)
@pytest.mark.parametrize("word", ["--view", "--liv", "--familiar"])
def test_no_slip_of_the_fingers_is_answered_with_what_moves_an_arm(tmp_path, word):
    done = run("--robot", "galaxea_a1", word, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("E2 USAGE No such option")
    assert "--live" not in done.stderr
    assert "--unfamiliar" not in done.stderr
    assert "--robot" in run("--robt", "galaxea_a1", cwd=tmp_path).stderr
