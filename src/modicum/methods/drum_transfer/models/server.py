"""A client of servers that speak the OpenAI protocol: that company's, or vLLM, llama.cpp and others
on a machine of one's own. Nothing is sent but the text of grooves.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from modicum.errors import ConfigError, DataError, require
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.notation import (
    COLUMN_OF_ROW,
    DRUMROLL,
    END,
    INSTRUMENTS,
    SEPARATOR,
    Notation,
)

Form = Literal["completions", "chat"]
OPENAI = "https://api.openai.com/v1"
_MAX_TOKENS = 1000
_RETRIED = (429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_MOST_BYTES = 4 * 2**20
_LOCAL = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)


class ServerError(DataError):
    """A server cannot be reached, keeps failing, or is too slow: it is of no use to ask again."""


def messages(prompt: str, notation: Notation) -> list[dict[str, str]]:
    """What a chat model is sent: an instruction, and the groove as what the user says.

    The instruction is inferred: the paper's models were told none.
    """
    beat = f"{notation.steps_per_beat} of them a quarter note"
    in_rows = ", ".join(INSTRUMENTS[column] for column in COLUMN_OF_ROW)
    lines = {
        "steps": f"Each line is one step, {beat}, and has a character for each of "
        f"{', '.join(INSTRUMENTS)}, in this order",
        "rows": f"Each bar is six lines, of {in_rows}, in this order; each line has a character "
        f"for each step, {beat}, and | between quarter notes",
    }[notation.layout]
    letters = "".join(notation.columns)
    meanings = ["- is silence", "o a hit"]
    meanings += ["a capital a loud hit"] * ("O" in letters)
    meanings += ["x the cross-stick, the closed hi-hat or the bow of the ride"] * ("x" in letters)
    instruction = (
        f"You are a drummer. The user gives the beginning of a groove as text; write how it goes "
        f"on, in the same form and nothing else. {lines}: {', '.join(meanings)}. The line "
        f"{SEPARATOR.strip()} stands between bars of {notation.steps_per_bar} steps, and {END} "
        f"after the last bar."
    )
    told = {"role": "system", "content": instruction}
    return [told, {"role": "user", "content": prompt}]


class Reply(NamedTuple):
    """One text that a server wrote."""

    text: str
    stopped: bool
    """Whether it ended at the stop text, not because it was too long."""
    refusal: str = ""
    """What the server says where it refuses to write this text; empty where it does not."""


@dataclass(frozen=True)
class Server:
    """A server that speaks the OpenAI protocol. The key is in no message and no file.

    Raises:
        ConfigError: The address is none, or the key is missing, or cannot be a key.
        MissingExtraError: httpx is not installed.
    """

    model: str
    """What the server calls the model."""
    form: Form = "completions"
    """completions: `/v1/completions`, which fine-tuned base models answer. chat:
    `/v1/chat/completions`."""
    base_url: str = ""
    """Address up to `/v1`; empty: that in `OPENAI_BASE_URL`, or OpenAI's."""
    key: str = field(default="", repr=False)
    """Empty: that in `OPENAI_API_KEY`. Servers of one's own may need none."""
    timeout: float = 120.0
    """Seconds to wait for an answer, until it is whole."""
    retries: int = 4
    """How often a request is sent again that was refused because the server is busy or failing;
    the pauses are of 1, 2, 4, … seconds, or as long as the server says, at most 60."""

    def __post_init__(self) -> None:
        """Take what is not given from the environment, and check it."""
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL", "") or OPENAI
        key = self.key or os.environ.get("OPENAI_API_KEY", "")
        object.__setattr__(self, "base_url", base_url.rstrip("/"))
        object.__setattr__(self, "key", key.strip())
        _check_address(self.base_url)
        if self.base_url == OPENAI and not self.key:
            raise ConfigError(
                f"{OPENAI} needs a key. Set OPENAI_API_KEY, or name another server by "
                f"OPENAI_BASE_URL."
            )
        if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
            raise ConfigError(
                "the key of the server holds a character that no key has, such as a line break. "
                "Copy it again into OPENAI_API_KEY."
            )

    def complete(
        self,
        prompt: str,
        sampling: Sampling | None = None,
        *,
        notation: Notation = DRUMROLL,
        options: Mapping[str, Any] | None = None,
    ) -> list[Reply]:
        """Have a text continued, as the paper has it: temperature 0.9, stop at `END`.

        A server that gives fewer samples at a time is asked again. No server is constrained. Chat
        models are told of the notation. `options` are more fields of the request, as the server
        knows them; None leaves one out: `{"max_tokens": None, "max_completion_tokens": 1000}`.

        Raises:
            ConfigError: The server refuses the key or the model.
            ServerError: It cannot be reached, keeps failing, or is too slow.
            DataError: It refuses this request or every text of it, or its answer is none.
        """
        sampling = sampling or Sampling()
        asked: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature}
        asked |= {"max_tokens": sampling.max_tokens or _MAX_TOKENS, "stop": END}
        asked |= {"top_p": sampling.top_p} if sampling.top_p != 1 else {}
        asked |= {"seed": sampling.seed} if sampling.seed else {}
        if self.form == "chat":
            url, asked["messages"] = f"{self.base_url}/chat/completions", messages(prompt, notation)
        else:
            url, asked["prompt"] = f"{self.base_url}/completions", prompt
        replies: list[Reply] = []
        while len(replies) < sampling.samples:
            body = asked | {"n": sampling.samples - len(replies)} | dict(options or {})
            body = {name: value for name, value in body.items() if value is not None}
            if "seed" in body:  # the same again would give the same texts again
                body["seed"] += len(replies)
            replies += self._replies(url, body)
        if all(reply.refusal for reply in replies):
            raise DataError(f"{url}: {self.refused(replies[0])}")
        return replies[: sampling.samples]

    def refused(self, reply: Reply) -> str:
        """A refusal as a sentence, for messages."""
        said = self.quote(reply.refusal)
        return f"the model {self.model} refuses to answer: {said}. Use another model."

    def _replies(self, url: str, body: Mapping[str, Any]) -> list[Reply]:
        content = self._post(url, body)
        try:
            choices: list[dict[str, Any]] = json.loads(content)["choices"]
            replies = list(map(self._reply, choices))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(
                f"{url}: the answer is not what the OpenAI protocol has; expected JSON with "
                f"choices, found {self.quote(content)}."
            ) from None
        if not replies:
            raise DataError(f"{url}: the answer has no choices; expected at least one.")
        return replies

    def _reply(self, choice: Mapping[str, Any]) -> Reply:
        chat = self.form == "chat"
        message = choice["message"] if chat else choice
        text, reason = message["content" if chat else "text"], choice.get("finish_reason")
        refusal = message.get("refusal") or (reason == "content_filter" and "content filter")
        if refusal:
            said = refusal if isinstance(refusal, str) else "no reason given"
            return Reply("", stopped=False, refusal=said)
        if not isinstance(text, str):
            raise TypeError
        return Reply(text, stopped=reason == "stop")

    def _post(self, url: str, body: Mapping[str, Any]) -> bytes:
        """The body of the answer; a busy server is asked again. Redirections are not followed: the
        key would go with them, wherever that is.
        """
        for attempt in range(self.retries + 1):
            status, headers, content = self._ask(url, body)
            if status in _RETRIED and attempt < self.retries:
                wait = _pause(headers, attempt)
                busy = "%s: the server answers %d; trying again in %g s."
                logger.warning(busy, url, status, wait)
                time.sleep(wait)
            elif 200 <= status < 300:
                return content
            else:
                raise self._refusal(url, status, self.quote(content[:2000]))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _ask(self, url: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one answer, which is whole in time and not too long."""
        httpx = _httpx()
        sent = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        sent["Accept-Encoding"] = "identity"  # what is packed may be any size
        late = f"{url}: no answer within {self.timeout:g} s. Raise the timeout, or ask for fewer "
        late += "samples."
        proxied = httpx.URL(url).host not in _LOCAL
        answered: list[tuple[int, Mapping[str, str], bytes]] = []
        failed: list[Exception] = []
        given_up = threading.Event()

        def ask() -> None:
            content = bytearray()
            try:
                with (
                    httpx.Client(timeout=self.timeout, trust_env=proxied) as client,
                    client.stream("POST", url, json=body, headers=sent) as response,
                ):
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise DataError(f"{url}: the answer is compressed, which was not asked.")
                    for part in response.iter_raw():
                        content += part
                        if len(content) > _MOST_BYTES:
                            raise DataError(
                                f"{url}: the answer is longer than {_MOST_BYTES:,} bytes. Ask for "
                                f"fewer samples or tokens."
                            )
                        if given_up.is_set():
                            return
                answered.append((response.status_code, response.headers, bytes(content)))
            except Exception as error:  # raised below, in the thread that waits
                failed.append(error)

        # The client's own limit is between bytes: a server may send one from time to time for ever.
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(self.timeout)
        given_up.set()
        if answered:
            return answered[0]
        if not failed or isinstance(failed[0], httpx.TimeoutException):
            raise ServerError(late)
        if isinstance(failed[0], httpx.HTTPError):
            raise ServerError(
                f"{url}: the server cannot be reached ({self._clean(str(failed[0]))}). Is it "
                f"running, and is the address right?"
            ) from None
        raise failed[0]

    def _refusal(self, url: str, status: int, said: str) -> Exception:
        kind, problem = ConfigError, f"({status}): {said}"
        if status in _RETRIED:
            kind, attempts = ServerError, self.retries + 1
            problem = f"answers {status}, {said}, after {attempts} attempts. Try again later."
        elif status in (401, 403):
            problem = (
                f"refuses access {'with this key' if self.key else 'without key'} {problem}. Set "
                f"OPENAI_API_KEY to a key of this server."
            )
        elif 300 <= status < 400:
            problem = (
                f"sends elsewhere ({status}), where the key is not taken. Give the address it has "
                f"moved to."
            )
        elif status == 404:
            problem = (
                f"has no such address or no model {self.model!r} {problem}. The address usually "
                f"ends in /v1."
            )
        else:
            kind = DataError
            problem = (
                f"refuses this request {problem}. If it is too long, give a shorter prompt, or ask "
                f"for fewer tokens."
            )
        return kind(f"{url}: the server {problem}")

    def quote(self, said: bytes | str) -> str:
        """The beginning of what the server said, for messages, without the key."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return repr(self._clean(" ".join(text.split()))[:300])

    def _clean(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text


def _httpx() -> Any:
    return require("httpx", "music", "A model on a server")


def _check_address(url: str) -> None:
    """Refuse what is no address of a server, or holds a secret."""
    httpx = _httpx()
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.userinfo:
        raise ConfigError(
            "the address of the server holds a user or password. Remove it, and give the key in "
            "OPENAI_API_KEY."
        )
    if address.scheme not in ("http", "https") or not address.host or address.port == 0:
        raise ConfigError(
            f"{url}: no address of a server; expected one such as http://127.0.0.1:8000/v1 or "
            f"{OPENAI}."
        )


def _pause(headers: Mapping[str, str], attempt: int) -> float:
    """Seconds until the next attempt."""
    try:
        wait = float(headers.get("Retry-After", ""))
    except ValueError:  # absent, or a date
        wait = 2.0**attempt
    return min(max(wait, 0.0), _LONGEST_WAIT) if wait == wait else 1.0
