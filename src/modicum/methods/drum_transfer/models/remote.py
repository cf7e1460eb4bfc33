"""Grooves continued by models on servers, and training files for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.metrics.measures import validity
from modicum.methods.drum_transfer.models.server import Form, Reply, Server, ServerError, messages
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.drumroll import (
    Record,
    Repair,
    fault,
    to_hits,
    to_text,
    without_separators,
)
from modicum.methods.drum_transfer.text.notation import END, SEPARATOR, Notation
from modicum.system.files import write_text

logger = logging.getLogger(__name__)


def write_jsonl(path: Path, records: Iterable[Record], *, form: Form = "completions") -> int:
    """Write records as a training file, one JSON object a line; how many there are.

    In the form completions that is `{"prompt", "completion"}`, as the paper's models were trained,
    for chats `{"messages"}` of system, user and assistant, with an instruction as the first.

    Raises:
        DataError: There are none.
    """
    lines: list[str] = []
    for record in records:
        written: dict[str, Any] = {"prompt": record.prompt, "completion": record.completion}
        if form == "chat":
            answer = {"role": "assistant", "content": record.completion}
            written = {"messages": [*messages(record.prompt, record.notation), answer]}
        lines.append(json.dumps(written) + "\n")
    if not lines:
        raise DataError(f"{path}: there are no records to write; nothing is written.")
    write_text(path, "".join(lines))
    return len(lines)


class Answer(NamedTuple):
    """A groove that a server has continued, and how well it kept to the notation."""

    name: str
    text: str = ""
    """Prompt and continuation as lines without separators; empty if there is an `error`."""
    bad_lines: int = 0
    """Lines that came malformed, those left out not counted."""
    left_out: int = 0
    """Lines left out because they are no part of a groove; 0 without `repair`."""
    right_length: bool = False
    """Whether as many lines came as were wanted, good or bad, those left out not counted."""
    ended: bool = False
    """Whether the model wrote the end mark, or nothing more: servers do not tell these apart."""
    error: str = ""
    """Why this sample cannot be used, though others can; empty if it can."""


def continue_groove(
    server: Server,
    record: Record,
    sampling: Sampling | None = None,
    *,
    groove_bars: int = 16,
    repair: Repair | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Answer]:
    """Continue the prompt of a record on a server, and check what comes: an answer a sample.

    Malformed lines and continuations of a wrong length are reported in the answers and in the log,
    one warning of a kind for all samples. Without `repair` they stay as they are. With it

    - what is no part of a groove, such as the words and code fences that chat models put around it,
      is left out: all before the first line that can begin a bar, all after `END`, and between them
      each line of whose characters no more than half occur in lines of the notation;
    - other malformed lines are padded or dropped;
    - what is then too long is cut to the bars wanted. What is too short stays so.

    A sample that is refused or, with `repair`, has no line that can begin a bar does not stop the
    others: its answer has an `error`, and there is a warning. Bars wanted, `groove_bars`, include
    those of the prompt. The completion of the record is not sent.

    Raises:
        ConfigError: The prompt has all bars wanted; or see `Server.complete`.
        ServerError: See there.
        DataError: No sample can be used; or see there.
    """
    name, notation, given = record.name, record.notation, without_separators(record.prompt)
    wanted = groove_bars - given.count("\n") // notation.lines_per_bar
    if wanted < 1:
        raise ConfigError(
            f"{name}: the prompt has {groove_bars - wanted} bars; nothing is left to continue of a "
            f"groove of {groove_bars}. Give a shorter prompt, or ask for more bars."
        )
    try:
        replies = server.complete(record.prompt, sampling, notation=notation, options=options)
    except ServerError:
        raise  # not of this groove
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    parted = [_parts(reply, notation, server, repair) for reply in replies]
    if all(error for _, _, error in parted):
        raise DataError(f"{name}: {parted[0][2]}")
    found = validity([groove for groove, _, _ in parted], notation, groove_bars=wanted)
    ended = [reply.stopped or END in reply.text for reply in replies]
    answers: list[Answer] = []
    for n, (groove, rest, error) in enumerate(parted):
        text = "" if error else given + groove
        if error:
            logger.warning("%s, sample %d: %s", name, n + 1, error)
        elif repair is not None:
            hits = to_hits(text, notation, repair=repair, source=name)
            text = to_text(hits[: groove_bars * notation.steps_per_bar], notation)
        bad, right = int(found.bad_lines[n]), bool(found.right_length[n])
        answers.append(Answer(name, text, bad, len(rest), right, ended[n], error))
    if left_out := [line for _, rest, _ in parted for line in rest]:
        example = server.quote(next(filter(None, left_out), ""))
        logger.warning("%s: left out %d lines that %s wrote beside the groove, such as %s.",
                       name, len(left_out), server.model, example)  # fmt: skip
    if bad := found.bad_lines.sum():
        fate = f"repaired by {repair}" if repair else "they are left as they are"
        logger.warning("%s: %d of %d lines that %s wrote are malformed; %s.",
                       name, bad, found.lines.sum(), server.model, fate)  # fmt: skip
    bars = (found.lines / notation.lines_per_bar).tolist()
    good = [(bars[n], ended[n]) for n, (_, _, error) in enumerate(parted) if not error]
    _warn_of_lengths(name, server.model, good, wanted, cut=bool(repair))
    return answers


def _parts(
    reply: Reply, notation: Notation, server: Server, repair: Repair | None
) -> tuple[str, list[str], str]:
    """Lines of a groove, those that are left out, see `continue_groove`, or why there is none."""
    if reply.refusal:
        return "", [], server.refused(reply)
    if repair is None:
        return without_separators(reply.text), [], ""
    before, _, after = reply.text.partition(END)
    lines = [line.strip() for line in before.splitlines()]
    lines = [line for line in lines if line != SEPARATOR.strip()]
    begins = [fault(line, notation.lines[0]) is None for line in lines]
    if True not in begins:
        error = (
            f"no line that {server.model} wrote can begin a bar, as {notation.silence!r} can; it "
            f"wrote {server.quote(reply.text)}. Try again, or take a model that was fine-tuned on "
            f"grooves."
        )
        return "", [], error
    first = begins.index(True)
    groove, left_out = "", lines[:first]
    characters = set("".join(notation.bar()).replace("\n", ""))
    for line in lines[first:]:
        if 2 * sum(map(characters.__contains__, line)) > len(line):
            groove += line + "\n"
        else:
            left_out.append(line)
    return groove, left_out + after.strip().splitlines(), ""


def _warn_of_lengths(
    name: str, model: str, written: list[tuple[float, bool]], wanted: int, *, cut: bool
) -> None:
    """Tell of samples, bars and whether each ended, that are too short or too long."""
    short = [end for bars, end in written if bars < wanted]
    fate = "cut to" if cut else "not cut to"
    advice = {
        "cut off at the most tokens: raise --max-tokens": short.count(False),
        "ended early by the model itself: try again, or fine-tune it longer": short.count(True),
        f"too long: {fate} the bars wanted": sum(bars > wanted for bars, _ in written),
    }
    if said := "; ".join(f"{count} {what}" for what, count in advice.items() if count):
        listed = ", ".join(f"{bars:.4g}" for bars, _ in written)
        logger.warning("%s: %s wrote %s bars, but %d were wanted: %s.",
                       name, model, listed, wanted, said)  # fmt: skip
