"""Options of the prompts' contextual dimensions, asked of a language model.

Either an OpenAI-compatible chat endpoint or a local transformers model; each class is asked about each dimension, as
in the paper. The answer must be a plain bullet list, and is asked for again if it is not. Torch-free until a local
model is loaded.
"""

from __future__ import annotations

import logging
import netrc
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from distillation.protocol import StageError
from distillation.recipe import ClassSpec
from distillation.recipe_data import Language

Ask = Callable[[str, int], str]
"""From a question and the number of the try to the model's answer; the number seeds a local model."""

ASKS = 4
CONCURRENT_REQUESTS = 8
LONGEST_OPTION = 80
BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+(.+?)\s*$")
FIELD = "data.prompts.language_model"


def answer_tokens(count: int) -> int:
    """Tokens that an answer may have: a line of six words for each option and one more, and words around the list."""
    return 120 + 12 * (count + 1)


def question(item: ClassSpec, superclass: str, dimension: str, count: int) -> str:
    """What is asked. One option more than needed, because models often repeat one."""
    kind = f" ({superclass})" if superclass else ""
    described = f" A {item.name} is: {item.description}." if item.description else ""
    return (
        f"List {count + 1} different options for the {dimension} of a photo of a {item.name}{kind}.{described} "
        f"Each option is a short phrase of at most six words that could follow 'a photo of a {item.name}, '. "
        f"Answer with a bullet list of {count + 1} lines that start with '- ' and nothing else."
    )


def parse_bullets(answer: str, count: int) -> list[str]:
    """The first ``count`` different options of a bullet list.

    Raises:
        ValueError: fewer options, or one too long to be a phrase.
    """
    options: dict[str, str] = {}
    for line in answer.splitlines():
        match = BULLET.match(line)
        if match is None:
            continue
        option = match[1].replace("**", "").strip("\"'`. ")
        if len(option) > LONGEST_OPTION:
            raise ValueError(f"an option of {len(option)} characters is no short phrase: {option[:40]!r}")
        if option:
            options.setdefault(option.casefold(), option)
    if len(options) < count:
        raise ValueError(f"{len(options)} different bullets instead of {count}")
    return list(options.values())[:count]


def ask_options(
    ask: Ask, item: ClassSpec, superclass: str, dimensions: Sequence[str], count: int
) -> dict[str, tuple[str, ...]]:
    """Options of every dimension for one class.

    Raises:
        StageError: language_model_failed, after four answers that are no list.
    """
    found: dict[str, tuple[str, ...]] = {}
    for dimension in dimensions:
        text, problem = question(item, superclass, dimension, count), ""
        for attempt in range(ASKS):
            try:
                found[dimension] = tuple(parse_bullets(ask(text, attempt), count))
                break
            except ValueError as error:
                problem = str(error)
        else:
            raise StageError(
                "language_model_failed",
                f"{ASKS} answers about the {dimension} of '{item.name}' were no list of {count} options: {problem}",
                "use a larger instruction-tuned model, ask for fewer data.prompts.options, or leave "
                "language_model out and write data.prompts.dimensions yourself",
                FIELD,
            )
    return found


def options_of_classes(
    language: Language,
    classes: Sequence[ClassSpec],
    superclass: str,
    dimensions: Sequence[str],
    count: int,
    on_class: Callable[[int], None] = lambda _done: None,
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Options of every class by name; ``on_class`` is told how many classes are done."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    workers = CONCURRENT_REQUESTS if language.kind == "openai" else 1
    tokens = answer_tokens(count)
    ask = chat_endpoint(language, tokens) if language.kind == "openai" else local_model(language, tokens)
    with ThreadPoolExecutor(workers) as pool:
        try:
            answers = pool.map(lambda item: ask_options(ask, item, superclass, dimensions, count), classes)
            for item, options in zip(classes, answers, strict=True):
                found[item.name] = options
                on_class(len(found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def chat_endpoint(language: Language, tokens: int, *, attempts: int = 5, longest_wait: float = 20.0) -> Ask:
    """Ask an OpenAI-compatible endpoint; overload (429), 5xx and broken connections are retried.

    A key is read from the password of the endpoint's host in ``~/.netrc``, so that no recipe holds a secret.
    An answer is cut after ``tokens``.
    """
    if not language.base_url:
        raise StageError(
            "language_model_failed",
            "a chat endpoint needs its address",
            "give base_url, such as http://localhost:8000/v1",
            f"{FIELD}.base_url",
        )
    key = _key_of(language.base_url)
    client = httpx.Client(
        base_url=language.base_url.rstrip("/") + "/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(120.0, connect=10.0),
        trust_env=True,
    )
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential_jitter(initial=0.5, max=longest_wait),
        retry=retry_if_exception(_is_passing),
        reraise=True,
    )

    def post(body: dict[str, Any]) -> Any:
        response = client.post("chat/completions", json=body)
        response.raise_for_status()
        return response.json()["choices"][0]["message"]["content"]

    def ask(text: str, attempt: int) -> str:
        body = {
            "model": language.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": language.temperature,
            "max_tokens": tokens,
            "seed": attempt,
        }
        try:
            return str(retrying(post, body))
        except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError) as error:
            raise _endpoint_error(language, error) from error

    return ask


def local_model(language: Language, tokens: int) -> Ask:
    """Ask a transformers chat model held in this process (on the GPU where there is one).

    An answer is cut after ``tokens``.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from models.hub import explain_hub_error

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(language.model)
        model = AutoModelForCausalLM.from_pretrained(language.model, dtype="auto", use_safetensors=True)
    except Exception as error:
        raise explain_hub_error(error, f"the language model '{language.model}'", f"{FIELD}.model") from error
    model.to(device).eval()

    def ask(text: str, attempt: int) -> str:
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(device)
        torch.manual_seed(attempt)
        sampling: dict[str, Any] = {"do_sample": language.temperature > 0}
        if language.temperature > 0:
            sampling |= {"temperature": language.temperature, "top_k": 50, "top_p": 0.95}
        answer = model.generate(**inputs, max_new_tokens=tokens, **sampling)
        return str(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return ask


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _endpoint_error(language: Language, error: Exception) -> StageError:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        message = f"{language.base_url} answered {status}: {error.response.text[:200]}"
        hint = (
            "put the endpoint's key into ~/.netrc of the worker, as its host's password"
            if status in (401, 403)
            else "check data.prompts.language_model's model and base_url"
        )
    elif isinstance(error, httpx.HTTPError):
        message = f"{language.base_url} cannot be reached: {error}"
        hint = "start the endpoint, or check base_url as seen from the worker"
    else:
        message = f"{language.base_url} answered something that is no chat completion: {error!r}"
        hint = "give the base URL of an OpenAI-compatible endpoint; it usually ends in /v1"
    return StageError("language_model_failed", message, hint, f"{FIELD}.base_url")


def _key_of(base_url: str) -> str | None:
    path = Path("~/.netrc").expanduser()
    if not path.is_file():
        return None
    try:
        entry = netrc.netrc(path).authenticators(urlsplit(base_url).hostname or "")
    except netrc.NetrcParseError as error:
        logging.getLogger(__name__).warning("~/.netrc is not readable: %s", error)
        return None
    return entry[2] if entry else None
