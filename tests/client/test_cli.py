"""The command: exit codes, JSON, messages for people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stillroom.cli
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from stillroom.cli_session import EXIT_CODES

from tests.client.conftest import Run
from tests.client.faulty import CONTENT, ENCODER, JOB, Faults, event
from tests.client.servers import closed_port, serve

CLIENT = Path(stillroom.cli.__file__).parents[1]
COMMANDS = [
    ["submit"],
    ["sweep"],
    ["jobs"],
    ["show"],
    ["events"],
    ["cancel"],
    ["retry"],
    ["delete"],
    ["report"],
    ["samples"],
    ["encoders"],
    ["download"],
    ["classify"],
    ["catalogue"],
    ["datasets", "list"],
    ["datasets", "add"],
    ["datasets", "show"],
    ["datasets", "delete"],
    ["generators", "list"],
    ["generators", "submit"],
    ["generators", "show"],
    ["generators", "download"],
    ["generators", "delete"],
]
FLAGS = ("--name", "fruit", "--class", "orange", "--class", "banana")


def plain(text: str) -> str:
    """Without the frames and line breaks of a table."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command(run: Run, command: list[str]) -> None:
    done = run("http://unused", *command, "--help")
    assert done.exit_code == 0
    assert "--json" in done.stdout
    assert plain(EXIT_CODES) in plain(done.stdout)


def test_help_lists_every_command_and_variable(run: Run) -> None:
    text = plain(run("http://unused", "--help").stdout)
    assert all(command[0] in text for command in COMMANDS)
    assert "STILLROOM_URL" in text and "STILLROOM_API_KEY" in text and plain(EXIT_CODES) in text


def test_submit_with_flags(run: Run, url: str, faults: Faults) -> None:
    options = (
        "--size",
        "xs",
        "--images-per-class",
        50,
        "--dataset",
        "ds_1",
        "--minutes",
        2,
        "--metadata",
        "team=kitchen",
    )
    done = run(url, "submit", *FLAGS, *options, "--idempotency-key", "key-1", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["id"] == JOB
    ((body, key),) = faults.submitted
    assert key == "key-1"
    assert body == {
        "name": "fruit",
        "metadata": {"team": "kitchen"},
        "recipe": {
            "domain": {"name": "fruit", "classes": ["orange", "banana"]},
            "student": {"size": "xs"},
            "data": {"images_per_class": 50},
            "evaluation": {"dataset": "ds_1"},
            "training": {"minutes": 2.0},
        },
    }


def test_flags_change_a_recipe_file(run: Run, url: str, faults: Faults, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "domain": {"name": "fruit", "classes": ["orange", "lemon"]},
        "student": {"max_params": 10, "image_size": 64},
        "training": {"epochs": 3, "lr": 0.01},
    }
    (tmp_path / "fruit.json").write_text(json.dumps(recipe))
    done = run(url, "submit", tmp_path / "fruit.json", "--name", "monday", "--size", "s", "--steps", 9, "--json")
    assert done.exit_code == 0
    body, key = faults.submitted[0]
    assert key  # one of its own, so that a lost answer can be asked for again
    assert body["name"] == "monday"
    assert body["recipe"]["domain"]["name"] == "fruit"
    assert body["recipe"]["student"] == {"size": "s", "image_size": 64}
    assert body["recipe"]["training"] == {"steps": 9, "lr": 0.01}


def test_wait_and_download(run: Run, url: str, tmp_path: Path) -> None:
    done = run(url, "submit", *FLAGS, "--download", tmp_path, "--json")
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["downloaded"] == [str(tmp_path / "image_encoder.onnx"), str(tmp_path / "tokenizer" / "words.json")]
    assert (tmp_path / "image_encoder.onnx").read_bytes() == CONTENT
    assert "prompts done" in plain(done.stderr) and "reused" in done.stderr
    assert "warning: event 2" in done.stderr


def test_a_service_that_goes_away_at_an_event_is_waited_for(run: Run, url: str, faults: Faults) -> None:
    """As at its end: "interrupted" is the last that a training says."""
    faults.events, faults.away = [event(1, "stage", status="ready"), event(2, "status", status="succeeded")], [503]
    done = run(url, "submit", *FLAGS, "--wait")
    assert done.exit_code == 0, done.stderr
    assert not faults.away


@pytest.mark.parametrize(
    "arguments", [("submit", *FLAGS, "--wait"), ("events", JOB, "--follow")], ids=["submit", "events"]
)
def test_exit_1_when_the_job_failed(run: Run, url: str, faults: Faults, arguments: tuple[str, ...]) -> None:
    faults.status = "failed"
    done = run(url, *arguments)
    assert done.exit_code == 1
    assert "the disk is full" in done.stderr and "what to do: free some space" in done.stderr
    last = json.loads(run(url, *arguments, "--json").stdout.splitlines()[-1] if arguments[0] == "events" else "null")
    assert last is None or last["error"]["job"]["id"] == JOB


def test_exit_1_when_the_job_was_cancelled(run: Run, url: str, faults: Faults) -> None:
    faults.status = "cancelled"
    done = run(url, "submit", *FLAGS, "--wait", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["job"]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("submit",), "give a recipe file, or --name and at least two --class"),
        (("submit", *FLAGS, "--steps", "5", "--minutes", "1"), "not both"),
        (("submit", *FLAGS, "--metadata", "team"), "key=value"),
        (("submit", "no-such-recipe.yaml"), "no-such-recipe.yaml"),
        (("show",), "JOB"),
        (("datasets", "add", "no-such-file.zip"), "does not exist"),
        (("classify", ENCODER, "no-such-image.jpg"), "no-such-image.jpg"),
        (("nonsense",), "nonsense"),
        (("submit", *FLAGS, "--minutes", "nan"), "cannot be sent: Out of range float"),
    ],
)
def test_exit_2_on_wrong_usage(run: Run, url: str, faults: Faults, arguments: tuple[str, ...], message: str) -> None:
    done = run(url, *arguments)
    assert done.exit_code == 2
    assert message in plain(done.stderr)
    assert faults.submitted == []


@pytest.mark.parametrize(
    "text",
    ["domain: [", "- a list", "\x00", "domain: {name: 2025-01-15}", "training: {lr: .nan}", "domain: {2025-01-15: x}"],
)
def test_exit_2_on_a_file_that_is_no_recipe(run: Run, url: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    done = run(url, "submit", tmp_path / "recipe.yaml")
    assert done.exit_code == 2
    assert "recipe.yaml" in done.stderr


def test_exit_2_and_every_error_of_an_invalid_recipe(run: Run, url: str) -> None:
    arguments = ("submit", "--name", "wrong", "--class", "orange")
    done = run(url, *arguments)
    assert done.exit_code == 2
    text = plain(done.stderr)
    assert "field problem" in text
    assert "domain.classes a domain needs at least 2 classes" in text
    assert "student.size must be one of" in text
    assert "training.lr must be greater than 0" in text
    error = json.loads(run(url, *arguments, "--json").stdout)["error"]
    assert len(error["errors"]) == 3


@pytest.mark.parametrize("arguments", [("jobs",), ("submit", *FLAGS, "--wait"), ("show", JOB), ("events", JOB)])
def test_exit_3_when_nobody_is_there(run: Run, arguments: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    done = run(url, *arguments)
    assert done.exit_code == 3
    assert url in done.stderr and "make up" in done.stderr
    assert json.loads(run(url, *arguments, "--json").stdout)["error"]["code"] == "unreachable"


@pytest.mark.parametrize("url", ["http://[", "ftp://example", "nonsense", "http://bad host"])
def test_a_url_that_is_none(run: Run, url: str) -> None:
    done = run(url, "jobs")
    assert done.exit_code in (2, 3)
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "arguments", [("jobs",), ("show", JOB), ("submit", *FLAGS, "--wait"), ("events", JOB, "--follow")]
)
@pytest.mark.parametrize("answer", ["<html>It works!</html>", "[]"])
def test_exit_4_when_another_server_answers(run: Run, arguments: tuple[str, ...], answer: str) -> None:
    other = FastAPI()
    other.add_route("/{path:path}", lambda request: HTMLResponse(answer), ["GET", "POST"])
    with serve(other) as url:
        done = run(url, *arguments)
        assert done.exit_code == 4
        assert url in done.stderr and "is --url or STILLROOM_URL right?" in done.stderr
        last = run(url, *arguments, "--json").stdout
    assert json.loads(last)["error"]["code"] == "notstillroom"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "job_unknown"), "there is no job 'job_unknown'"),
        (("cancel", JOB), "cannot be cancelled"),
        (("show", "job_proxy"), "HTTP status 502: upstream is away"),
        (("show", "job_locked"), "STILLROOM_API_KEY"),
        (("download", ENCODER, "nothing.onnx"), "has no file 'nothing.onnx'"),
    ],
)
def test_exit_4_when_the_service_refuses(run: Run, url: str, arguments: tuple[str, ...], message: str) -> None:
    done = run(url, *arguments)
    assert done.exit_code == 4
    assert message in plain(done.stderr)
    assert "detail" in json.loads(run(url, *arguments, "--json").stdout)["error"]


def test_exit_4_when_a_job_has_no_encoder_yet(run: Run, url: str, faults: Faults, tmp_path: Path) -> None:
    faults.status = "training"
    done = run(url, "download", JOB, "--to", tmp_path)
    assert done.exit_code == 4
    assert "it is training" in done.stderr


def test_exit_4_when_the_bytes_are_wrong(run: Run, url: str, faults: Faults, tmp_path: Path) -> None:
    faults.content = b"\0" * len(CONTENT)
    done = run(url, "download", ENCODER, "--to", tmp_path)
    assert done.exit_code == 4
    assert "sha256" in done.stderr


def test_pages_are_read_to_the_limit(run: Run, url: str, faults: Faults) -> None:
    assert len(json.loads(run(url, "jobs", "--limit", 500, "--json").stdout)) == 2
    assert len(json.loads(run(url, "jobs", "--limit", 1, "--json").stdout)) == 1
    assert faults.limits == [100, 100, 1]  # no more is asked for than is shown


def test_events_as_json_lines(run: Run, url: str) -> None:
    for arguments in (("events", JOB), ("events", JOB, "--follow")):
        lines = run(url, *arguments, "--json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [1, 2, 3]


def test_tables_for_people(run: Run, url: str) -> None:
    assert JOB in run(url, "jobs").stdout
    text = run(url, "show", JOB).stdout
    assert "30/60 images" in text and "team" in text and "reused" in text
    assert "warning" not in run(url, "events", JOB, "--after", 2).stdout
    assert "some teachers" in run(url, "catalogue", "teachers").stdout


def test_ctrl_c_leaves_the_job_alone(url: str, faults: Faults) -> None:
    faults.status, faults.stays, faults.events = "training", True, faults.events[:2]
    command = [sys.executable, "-m", "stillroom", "--url", url, "submit", *FLAGS, "--wait"]
    environment = os.environ | {"PYTHONPATH": str(CLIENT)}
    # A shell's background jobs ignore SIGINT, and their children inherit that.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listens
    )
    try:
        deadline = time.monotonic() + 60
        while not faults.last_event_ids and time.monotonic() < deadline:
            time.sleep(0.05)
        assert faults.last_event_ids, "the command never began to wait"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the job goes on" in said
    assert f"stillroom events {JOB} --follow" in said and f"stillroom cancel {JOB}" in said
    assert "Traceback" not in said
    assert faults.cancels == 0
