"""Prompts by covering design, explicit lists, and options asked of a language model."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from distillation.language import ask_options, chat_endpoint, local_model, parse_bullets
from distillation.prompts import covering, domain_prompts, fill, zero_shot_prompts
from distillation.protocol import Reporter, Request, StageError
from distillation.recipe import ClassSpec, Recipe
from distillation.recipe_data import Language
from distillation.stages import prompts as stage


def make_recipe(**prompts: Any) -> Recipe:
    classes = [{"name": "goldfish", "synonyms": ["Carassius auratus"]}, "trolley {bus}"]
    domain = {"name": "things", "superclass": "thing", "classes": classes}
    data = {"prompts": prompts, "generator": {"model": "/models/that-draws-anything"}}
    return Recipe.model_validate({"domain": domain, "data": data})


@pytest.mark.parametrize(("options", "most"), [(5, 30), (10, 111), (15, 265)])
def test_every_pair_of_options_occurs_in_few_prompts(options: int, most: int) -> None:
    """The counts that the paper's covering design has for four dimensions."""
    dimensions = [[f"{d}{i}" for i in range(options)] for d in "abcd"]
    rows = covering(dimensions)
    assert options**2 <= len(rows) <= most
    for (i, first), (j, second) in combinations(enumerate(dimensions), 2):
        assert {(row[i], row[j]) for row in rows} == {(a, b) for a in first for b in second}


def test_covering_of_no_and_one_dimension() -> None:
    assert covering([]) == [()]
    assert covering([["by day", "at night"]]) == [("by day",), ("at night",)]


def test_template_is_filled_and_tidied() -> None:
    item = ClassSpec(name="goldfish")
    template = "a photo of a {name} ({superclass}), {description}, {context}"
    assert fill(template, item, "fish", ["at night", "close-up"]) == "a photo of a goldfish (fish), at night, close-up"
    assert fill(template, item, "", []) == "a photo of a goldfish"
    described = ClassSpec(name="goldfish", description="small and orange")
    assert fill(template, described, "", ["indoors"]) == "a photo of a goldfish, small and orange, indoors"


def test_prompts_of_a_domain() -> None:
    recipe = make_recipe(dimensions={"location": ["indoors", "outdoors"], "daytime": ["at night", "by day"]})
    found = domain_prompts(recipe.domain, recipe.data.prompts)
    assert list(found) == ["goldfish", "trolley {bus}"]
    assert sorted(found["trolley {bus}"]) == [
        f"a photo of a trolley {{bus}}, {place}, {time}"
        for place in ("indoors", "outdoors")
        for time in ("at night", "by day")
    ]


def test_zero_shot_prompts_name_every_synonym() -> None:
    assert zero_shot_prompts(make_recipe().domain) == [
        ["a photo of a goldfish", "a photo of a Carassius auratus"],
        ["a photo of a trolley {bus}"],
    ]


@pytest.mark.parametrize(
    "answer",
    [
        'Sure! Here are some:\n- in a park\n* In a Park\n• on a table\n3) "at sea".\n',
        "1. **in a park**\n2. on a table\n3. at sea\n4. in space",
    ],
)
def test_bullets_are_parsed_and_doubles_dropped(answer: str) -> None:
    assert parse_bullets(answer, 3) == ["in a park", "on a table", "at sea"]


@pytest.mark.parametrize("answer", ["", "in a park\non a table\nat sea", "- a\n- b\n- A", "- " + "very " * 40 + "long"])
def test_answers_that_are_no_list_are_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"bullets|phrase"):
        parse_bullets(answer, 3)


def test_a_bad_answer_is_asked_again_then_fails_clearly() -> None:
    answers = iter(["no", "- a\n- b", "- x"])
    item = ClassSpec(name="goldfish")
    assert ask_options(lambda _q, _n: next(answers), item, "", ["daytime"], 2) == {"daytime": ("a", "b")}
    asked: list[int] = []
    with pytest.raises(StageError, match="the daytime of 'goldfish' were no list of 2 options") as caught:
        ask_options(lambda _q, n: asked.append(n) or "no", item, "", ["daytime"], 2)
    assert asked == [0, 1, 2, 3]
    assert caught.value.code == "language_model_failed"
    assert caught.value.hint


LINE_TOKENS = 8
"""Of a bullet with six words."""


class ChatServer:
    """A small chat endpoint that fails as told before it answers with the list, cut where no tokens are left."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses, self.bodies = statuses, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status = outer.statuses.pop(0) if outer.statuses else 200
                wanted = int(re.findall(r"List (\d+)", outer.bodies[-1]["messages"][0]["content"])[0])
                lines = min(wanted, outer.bodies[-1]["max_tokens"] // LINE_TOKENS)
                text = "\n".join(f"- option {i}" for i in range(1, lines + 1))
                content = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    chat = ChatServer([503, 429])
    thread = threading.Thread(target=chat.server.serve_forever)
    thread.start()
    yield chat
    chat.server.shutdown()
    thread.join()
    chat.server.server_close()


def test_prompts_stage_asks_a_chat_endpoint(chat_server: ChatServer, tmp_path: Path) -> None:
    recipe = make_recipe(
        language_model={"kind": "openai", "model": "tiny", "base_url": chat_server.url},
        options=3,
        dimensions={"location": ["unused"], "daytime": ["unused"]},
    )
    report = Reporter(io.StringIO())
    summary = stage.run(Request("prompts", 0, "", recipe, {}, tmp_path), report)
    written = json.loads((tmp_path / "prompts.json").read_text())
    assert (summary["source"], written["source"]) == ("openai", "openai")
    assert len(written["classes"]["goldfish"]) == 9
    assert written["classes"]["goldfish"][0] == "a photo of a goldfish, option 1, option 1"
    assert len(chat_server.bodies) == 2 * 2 + 2, "two classes, two dimensions, two failures tried again"
    assert "location of a photo of a goldfish (thing)" in json.dumps(chat_server.bodies)
    assert chat_server.bodies[0]["model"] == "tiny"


def test_an_answer_has_room_for_the_most_options(chat_server: ChatServer, tmp_path: Path) -> None:
    chat_server.statuses.clear()
    endpoint = {"kind": "openai", "model": "tiny", "base_url": chat_server.url}
    recipe = make_recipe(language_model=endpoint, options=30, dimensions={"location": ["unused"]})
    stage.run(Request("prompts", 0, "", recipe, {}, tmp_path), Reporter(io.StringIO()))
    written = json.loads((tmp_path / "prompts.json").read_text())
    assert len(written["classes"]["goldfish"]) == 30


def test_a_refusing_endpoint_is_not_asked_again(chat_server: ChatServer) -> None:
    chat_server.statuses[:] = [401]
    language = Language(kind="openai", model="tiny", base_url=chat_server.url)
    with pytest.raises(StageError, match="answered 401") as caught:
        chat_endpoint(language, 100)("List 3 things", 0)
    assert caught.value.code == "language_model_failed"
    assert "netrc" in caught.value.hint
    assert len(chat_server.bodies) == 1


def test_an_endpoint_that_is_not_there(chat_server: ChatServer) -> None:
    language = Language(kind="openai", model="tiny", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(StageError, match="cannot be reached") as caught:
        chat_endpoint(language, 100, attempts=2, longest_wait=0.01)("a question", 0)
    assert caught.value.code == "language_model_failed"


def test_a_local_model_is_asked_and_its_nonsense_refused(tmp_path: Path) -> None:
    """Random weights say nothing useful, but load and answer the way real ones do."""
    torch.manual_seed(0)
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    GPT2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(letters), n_positions=1024, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    language = Language(kind="transformers", model=str(tmp_path))
    ask = local_model(language, 64)
    assert ask("a question", 0) == ask("a question", 0) != ask("a question", 1)
    assert len(local_model(language, 8)("a question", 0)) <= 8 < len(ask("a question", 0)) <= 64
    with pytest.raises(StageError, match="were no list"):
        ask_options(ask, ClassSpec(name="goldfish"), "", ["daytime"], 5)


@pytest.mark.parametrize("explicit", [True, False])
def test_stage_without_a_language_model(explicit: bool, tmp_path: Path) -> None:
    lists = {"goldfish": ["a goldfish", "a goldfish", "one fish"], "trolley {bus}": ["a bus"]}
    recipe = make_recipe(explicit=lists) if explicit else make_recipe()
    summary = stage.run(Request("prompts", 0, "", recipe, {}, tmp_path), Reporter(io.StringIO()))
    written = json.loads((tmp_path / "prompts.json").read_text())
    if explicit:
        assert written == {
            "classes": {"goldfish": ["a goldfish", "one fish"], "trolley {bus}": ["a bus"]},
            "source": "explicit",
        }
    else:
        assert written["source"] == "recipe"
        assert 20 <= len(written["classes"]["goldfish"]) <= 30
    assert summary["prompts"] == sum(map(len, written["classes"].values()))
