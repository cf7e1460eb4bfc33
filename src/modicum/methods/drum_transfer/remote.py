"""Language models on a server: training files for it, and grooves continued by it.

Any server that speaks the OpenAI protocol will do: that company's, or vLLM, llama.cpp and others on
a machine of one's own (section 4.2 of the specification). Nothing is sent but the text of grooves.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.drumroll import (
    Record,
    Repair,
    lines_per_bar,
    to_hits,
    to_text,
    without_separators,
)
from modicum.methods.drum_transfer.measures import Validity, validity
from modicum.methods.drum_transfer.notation import (
    DRUMROLL,
    END,
    INSTRUMENTS,
    ROWS,
    SEPARATOR,
    Notation,
)
from modicum.system.files import write_text

Form = Literal["completions", "chat"]

OPENAI = "https://api.openai.com/v1"
_RETRIED = (429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_MOST_BYTES = 64 * 2**20
_LOCAL = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)


class ServerError(DataError):
    """A server cannot be reached, keeps failing, or is too slow: it is of no use to ask again."""


def instruction(notation: Notation = DRUMROLL) -> str:
    """What a chat model is told before the groove (inferred: the paper's models were told none)."""
    if notation.layout == "steps":
        lines = (
            f"Each line is one step, {notation.steps_per_beat} of them a quarter note, and has a "
            f"character for each of {', '.join(INSTRUMENTS)}, in this order"
        )
    else:
        instruments = [name for row in ROWS for name in INSTRUMENTS if name[0].upper() == row]
        lines = (
            f"Each bar is six lines, of {', '.join(instruments)}, in this order; each line has a "
            f"character for each step, {notation.steps_per_beat} of them a quarter note, and | "
            f"between quarter notes"
        )
    letters = set("".join(notation.columns))
    meanings = ["- is silence", "o a hit"]
    meanings += ["a capital a loud hit"] * ("O" in letters)
    meanings += ["x the cross-stick, the closed hi-hat or the bow of the ride"] * ("x" in letters)
    return (
        f"You are a drummer. The user gives the beginning of a groove as text; write how it goes "
        f"on, in the same form and nothing else. {lines}: {', '.join(meanings)}. The line "
        f"{SEPARATOR.strip()} stands between bars of {notation.steps_per_bar} steps, and {END} "
        f"after the last bar."
    )


def write_jsonl(
    path: Path,
    records: Iterable[Record],
    *,
    form: Form = "completions",
) -> int:
    """Write records as a training file, one JSON object a line.

    Args:
        path: Appears whole.
        records: What to learn.
        form: completions: `{"prompt", "completion"}`, as the paper's models were trained. chat:
            `{"messages"}` of system, user and assistant, with `instruction` as the first.

    Returns:
        How many there are.

    Raises:
        DataError: There are none.
    """
    objects = [
        {"prompt": record.prompt, "completion": record.completion}
        if form == "completions"
        else {
            "messages": [
                *_messages(record.prompt, record.notation),
                {"role": "assistant", "content": record.completion},
            ]
        }
        for record in records
    ]
    if not objects:
        raise DataError(f"{path}: there are no records to write; nothing is written.")
    write_text(path, "".join(json.dumps(one) + "\n" for one in objects))
    return len(objects)


def _messages(prompt: str, notation: Notation) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": instruction(notation)},
        {"role": "user", "content": prompt},
    ]


@dataclass(frozen=True)
class Reply:
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
    """Seconds to wait for an answer."""
    retries: int = 4
    """How often a request is sent again that was refused because the server is busy or failing;
    the pauses are of 1, 2, 4, … seconds, or as long as the server says, at most 60."""

    def __post_init__(self) -> None:
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL", "") or OPENAI
        key = (self.key or os.environ.get("OPENAI_API_KEY", "")).strip()
        object.__setattr__(self, "base_url", base_url.rstrip("/"))
        object.__setattr__(self, "key", key)
        try:
            address = urllib.parse.urlsplit(self.base_url)
            usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # the port is no number
            usable = False
        else:
            if "@" in address.netloc:
                raise ConfigError(
                    "the address of the server holds a user or password. Remove it, and give the "
                    "key in OPENAI_API_KEY."
                )
        if not usable:
            raise ConfigError(
                f"{self.base_url}: no address of a server; expected one such as "
                f"http://127.0.0.1:8000/v1 or {OPENAI}."
            )
        if self.base_url == OPENAI and not key:
            raise ConfigError(
                f"{OPENAI} needs a key. Set OPENAI_API_KEY, or name another server by "
                f"OPENAI_BASE_URL."
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(
                "the key of the server holds a character that no key has, such as a line break. "
                "Copy it again into OPENAI_API_KEY."
            )

    def complete(
        self,
        prompt: str,
        *,
        notation: Notation = DRUMROLL,
        samples: int = 1,
        temperature: float = 0.9,
        max_tokens: int = 1000,
        options: Mapping[str, Any] | None = None,
    ) -> list[Reply]:
        """Have a text continued, as the paper has it: temperature 0.9, stop at `END`.

        Args:
            prompt: What to continue.
            notation: Of the prompt, for the instruction of a chat model.
            samples: How many continuations. A server that gives fewer at a time is asked again.
            temperature: Of sampling.
            max_tokens: The longest continuation.
            options: More fields of the request, as the server knows them; None leaves a field out,
                as in `{"max_tokens": None, "max_completion_tokens": 1000}`. A `seed` is raised by
                the number of texts there are when a server is asked again, or the same would come.

        Raises:
            ConfigError: The server refuses the key or the model.
            ServerError: It cannot be reached, keeps failing, or is too slow.
            DataError: It refuses this request or every text of it, or its answer is none.
        """
        asked: dict[str, Any] = {
            "model": self.model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "stop": END,
        }
        if self.form == "chat":
            path, asked["messages"] = "/chat/completions", _messages(prompt, notation)
        else:
            path, asked["prompt"] = "/completions", prompt
        replies: list[Reply] = []
        while len(replies) < samples:
            body = asked | {"n": samples - len(replies)} | dict(options or {})
            body = {name: value for name, value in body.items() if value is not None}
            if isinstance(seed := body.get("seed"), int):
                body["seed"] = seed + len(replies)
            replies += self._replies(path, body)
        if all(reply.refusal for reply in replies):
            raise DataError(f"{self.base_url + path}: {self.refused(replies[0])}")
        return replies[:samples]

    def refused(self, reply: Reply) -> str:
        """A refusal as a sentence, for messages."""
        return (
            f"the model {self.model} refuses to answer: {self.quote(reply.refusal)}. Use another "
            f"model."
        )

    def _replies(self, path: str, body: Mapping[str, Any]) -> list[Reply]:
        url = self.base_url + path
        content = self._post(url, json.dumps(body).encode())
        try:
            answer: Any = json.loads(content)
            choices = cast("list[dict[str, Any]]", answer["choices"])
            replies = list(map(self._reply, choices))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{url}: the answer is not what the OpenAI protocol has; expected JSON with "
                f"choices, found {self.quote(content)}."
            ) from None
        if not replies:
            raise DataError(f"{url}: the answer has no choices; expected at least one.")
        return replies

    def _reply(self, choice: Mapping[str, Any]) -> Reply:
        message = choice["message"] if self.form == "chat" else choice
        text = message["content" if self.form == "chat" else "text"]
        reason = choice.get("finish_reason")
        refusal = message.get("refusal") or (reason == "content_filter" and "content filter")
        if refusal:
            return Reply("", stopped=False, refusal=str(refusal))
        if not isinstance(text, str):
            raise TypeError
        return Reply(text, stopped=reason == "stop")

    def _post(self, url: str, body: bytes) -> bytes:
        """The body of the answer; a busy server is asked again."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if urllib.parse.urlsplit(url).hostname in _LOCAL:
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(url, body, headers)
            try:
                with opener.open(request, timeout=self.timeout) as response:
                    content = response.read(_MOST_BYTES + 1)
            except urllib.error.HTTPError as error:
                with error:
                    said = self.quote(error.read(2000))
                if error.code not in _RETRIED:
                    raise self._refusal(url, error.code, said) from None
                if attempt == self.retries:
                    raise ServerError(
                        f"{url}: the server answers {error.code}, {said}, after "
                        f"{self.retries + 1} attempts. Try again later."
                    ) from None
                wait = _pause(error.headers, attempt)
                logger.warning(
                    "%s: the server answers %d; trying again in %g s.", url, error.code, wait
                )
                time.sleep(wait)
            except TimeoutError:
                raise self._too_slow(url) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    raise self._too_slow(url) from None
                raise ServerError(
                    f"{url}: the server cannot be reached ({self._clean(str(reason))}). Is it "
                    f"running, and is the address right?"
                ) from None
            else:
                if len(content) > _MOST_BYTES:
                    raise DataError(f"{url}: the answer is longer than {_MOST_BYTES:,} bytes.")
                return content
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _refusal(self, url: str, code: int, said: str) -> Exception:
        if code in (401, 403):
            return ConfigError(
                f"{url}: the server refuses access {'with this key' if self.key else 'without key'}"
                f" ({code}): {said}. Set OPENAI_API_KEY to a key of this server."
            )
        if 300 <= code < 400:
            return ConfigError(
                f"{url}: the server sends elsewhere ({code}), where the key is not taken. Give the "
                f"address it has moved to."
            )
        if code == 404:
            return ConfigError(
                f"{url}: there is no such address or no model {self.model!r} (404): {said}. The "
                f"address usually ends in /v1."
            )
        return DataError(
            f"{url}: the server refuses this request ({code}): {said}. If it is too long, give a "
            f"shorter prompt, or ask for fewer tokens."
        )

    def _too_slow(self, url: str) -> ServerError:
        return ServerError(
            f"{url}: no answer within {self.timeout:g} s. Raise the timeout, or ask for fewer "
            f"samples."
        )

    def quote(self, said: bytes | str) -> str:
        """The beginning of what the server said, for messages, without the key."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return repr(self._clean(" ".join(text.split()))[:300])

    def _clean(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the key would go with it, wherever that is."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """No request in place of one that is redirected."""
        return None


def _pause(headers: Message, attempt: int) -> float:
    """Seconds until the next attempt."""
    try:
        wait = float(headers.get("Retry-After", ""))
    except ValueError:  # absent, or a date
        wait = 2.0**attempt
    return min(max(wait, 0.0), _LONGEST_WAIT) if wait == wait else 1.0


@dataclass(frozen=True)
class Answer:
    """A groove that a server has continued, and how well it kept to the notation."""

    name: str
    """Of the record."""
    text: str
    """Prompt and continuation as lines without separators; empty if there is an `error`."""
    bad_lines: int
    """Lines that came malformed, those left out not counted."""
    left_out: int
    """Lines left out because they are no part of a groove; 0 without `repair`."""
    right_length: bool
    """Whether as many lines came as were wanted, good or bad, those left out not counted."""
    ended: bool
    """Whether the model wrote the end mark, or nothing more: servers do not tell these apart."""
    error: str = ""
    """Why this sample cannot be used, though others can; empty if it can."""


def continue_groove(
    server: Server,
    record: Record,
    *,
    groove_bars: int = 16,
    samples: int = 1,
    repair: Repair | None = None,
    temperature: float = 0.9,
    max_tokens: int = 1000,
    options: Mapping[str, Any] | None = None,
) -> list[Answer]:
    """Continue the prompt of a record on a server, and check what comes.

    Lines that are malformed and continuations that are too short or too long are reported in the
    answers and in the log, one warning of a kind for all samples. Without `repair` they stay as
    they are. With it

    - what is no part of a groove, such as the words and code fences that chat models put around it,
      is left out: all before the first line that can begin a bar, all after `END`, and between them
      each line of whose characters no more than half occur in lines of the notation;
    - other malformed lines are padded or dropped;
    - what is then too long is cut to the bars wanted. What is too short stays so.

    A sample that is refused or, with `repair`, has no line that can begin a bar does not stop the
    others: its answer has an `error`, and there is a warning.

    Args:
        server: Where the model is.
        record: Its prompt is continued; its completion is not sent.
        groove_bars: Bars wanted, the prompt's included.
        samples: How many continuations.
        repair: What becomes of malformed lines, see `drumroll.to_hits`.
        temperature: See `Server.complete`.
        max_tokens: See `Server.complete`.
        options: See `Server.complete`; `{"top_p": 0.95, "seed": 0}` for instance.

    Returns:
        An answer for each sample, in order.

    Raises:
        ConfigError: The prompt has all bars wanted; or see `Server.complete`.
        ServerError: See `Server.complete`.
        DataError: No sample can be used; or see `Server.complete`.
    """
    notation, given = record.notation, without_separators(record.prompt)
    wanted = groove_bars - given.count("\n") // lines_per_bar(notation)
    if wanted < 1:
        raise ConfigError(
            f"{record.name}: the prompt has {groove_bars - wanted} bars; nothing is left to "
            f"continue of a groove of {groove_bars}. Give a shorter prompt, or ask for more bars."
        )
    try:
        replies = server.complete(
            record.prompt,
            notation=notation,
            samples=samples,
            temperature=temperature,
            max_tokens=max_tokens,
            options=options,
        )
    except ServerError:
        raise  # not of this groove
    except DataError as error:
        raise DataError(f"{record.name}: {error}") from error
    parted = [_parts(reply, notation, server, repair) for reply in replies]
    good = [number for number, parts in enumerate(parted) if not parts.error]
    if not good:
        raise DataError(f"{record.name}: {parted[0].error}")
    for number, parts in enumerate(parted, 1):
        if parts.error:
            logger.warning("%s, sample %d: %s", record.name, number, parts.error)
    some = [parted[number] for number in good]
    found = validity([parts.groove for parts in some], notation, groove_bars=wanted)
    ended = [reply.stopped or END in reply.text for reply in replies]
    _warn_of_lines(record.name, server, some, found, repair)
    bars = found.lines / lines_per_bar(notation)
    _warn_of_lengths(record.name, server, bars, wanted, [ended[n] for n in good], repair)
    answers = [
        Answer(record.name, "", 0, 0, right_length=False, ended=end, error=parts.error)
        for parts, end in zip(parted, ended, strict=True)
    ]
    for place, number in enumerate(good):
        text = given + parted[number].groove
        if repair is not None:
            hits = to_hits(text, notation, repair=repair, source=record.name)
            text = to_text(hits[: groove_bars * notation.steps_per_bar], notation)
        answers[number] = Answer(
            name=record.name,
            text=text,
            bad_lines=int(found.bad_lines[place]),
            left_out=len(parted[number].left_out),
            right_length=bool(found.right_length[place]),
            ended=ended[number],
        )
    return answers


class _Parts(NamedTuple):
    """What a model wrote, parted."""

    groove: str
    """Lines without separators, perhaps malformed."""
    left_out: Sequence[str] = ()
    """Lines that are no part of a groove."""
    error: str = ""
    """Why there is no groove."""


def _parts(reply: Reply, notation: Notation, server: Server, repair: Repair | None) -> _Parts:
    """See `continue_groove` for what is left out."""
    if reply.refusal:
        return _Parts("", error=server.refused(reply))
    if repair is None:
        return _Parts(without_separators(reply.text))
    places = notation.bar()
    opening = places[: places.index("\n")]
    characters = "".join(places).replace("\n", "")
    before, _, after = reply.text.partition(END)
    lines = [line.strip() for line in before.splitlines()]
    lines = [line for line in lines if line != SEPARATOR.strip()]
    begins = [
        len(line) == len(opening) and all(map(str.__contains__, opening, line)) for line in lines
    ]
    if True not in begins:
        return _Parts(
            "",
            error=f"no line that {server.model} wrote can begin a bar, as "
            f"{''.join(allowed[0] for allowed in opening)!r} can; it wrote "
            f"{server.quote(reply.text)}. Try again, or take a model that was fine-tuned on "
            f"grooves.",
        )
    first = begins.index(True)
    groove, left_out = "", lines[:first]
    for line in lines[first:]:
        if 2 * sum(map(characters.__contains__, line)) > len(line):
            groove += line + "\n"
        else:
            left_out.append(line)
    return _Parts(groove, left_out + after.strip().splitlines())


def _warn_of_lines(
    name: str, server: Server, parts: list[_Parts], found: Validity, repair: Repair | None
) -> None:
    left_out = [line for part in parts for line in part.left_out]
    if left_out:
        logger.warning(
            "%s: left out %d lines that %s wrote beside the groove, such as %s.",
            name,
            len(left_out),
            server.model,
            server.quote(next(filter(None, left_out), "")),
        )
    if bad := found.bad_lines.sum():
        logger.warning(
            "%s: %d of %d lines that %s wrote are malformed; %s.",
            name,
            bad,
            found.lines.sum(),
            server.model,
            f"repaired by {repair}" if repair else "they are left as they are",
        )


def _warn_of_lengths(
    name: str,
    server: Server,
    bars: npt.NDArray[np.float64],
    wanted: int,
    ended: list[bool],
    repair: Repair | None,
) -> None:
    short, long, cut_off = bars < wanted, bars > wanted, ~np.array(ended)
    advice = [
        (short & cut_off, "{} cut off at the most tokens: raise --max-tokens"),
        (short & ~cut_off, "{} ended early by the model itself: try again, or fine-tune it longer"),
        (long, f"{{}} too long: {'cut to' if repair else 'not cut to'} the bars wanted"),
    ]
    if (bars != wanted).any():
        logger.warning(
            "%s: %s wrote %s bars, but %d were wanted: %s.",
            name,
            server.model,
            ", ".join(f"{number:.4g}" for number in bars),
            wanted,
            "; ".join(said.format(which.sum()) for which, said in advice if which.any()),
        )
