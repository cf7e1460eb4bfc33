from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from modicum.cli import main
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.models import remote, server
from modicum.methods.drum_transfer.models.remote import continue_groove, write_jsonl
from modicum.methods.drum_transfer.models.server import Server, ServerError
from modicum.methods.drum_transfer.options import Reading, Sampling
from modicum.methods.drum_transfer.text.drumroll import (
    Record,
    bars,
    convert,
    to_prompt,
    without_separators,
)
from modicum.methods.drum_transfer.text.midi import read_midi, write_midi
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    Notation,
)

KEY = "sk-very-secret-0123456789"
BAR = "o---o-\n" + "------\n" * 15
RECORD = Record(prompt=(BAR + "SEP\n") * 2, completion=(BAR + "SEP\n") * 13 + BAR + "END", name="x")
GOOD = RECORD.completion.removesuffix("END")


class Fake:
    """Answers on a port of this machine: (status, body, headers) one after another, then the last.

    A body that is no text is written as JSON.
    """

    def __init__(self):
        self.asked = []
        self.answers = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.asked.append((self.path, dict(self.headers), json.loads(body)))
                answers = fake.answers
                status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                content = body if isinstance(body, str) else json.dumps(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content.encode())

            do_GET = do_POST  # noqa: N815

            def log_message(self, format, *arguments):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        # A client that gave up is no news.
        self.http.handle_error = lambda *given: None
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def says(self, body, status=200, **headers):
        self.answers.append((status, body, {n.replace("_", "-"): v for n, v in headers.items()}))

    def completes(self, *texts, reason="stop"):
        self.says({"choices": [{"text": text, "finish_reason": reason} for text in texts]})

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def fake():
    fake = Fake()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Seconds that would have been waited; and an environment without keys."""
    waited = []
    monkeypatch.setattr(server, "time", SimpleNamespace(sleep=waited.append))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # this machine needs no proxy
    return waited


def test_training_files(tmp_path):
    path = tmp_path / "train.jsonl"
    assert write_jsonl(path, [RECORD, RECORD]) == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == 2 * [{"prompt": RECORD.prompt, "completion": RECORD.completion}]
    write_jsonl(path, [RECORD], form="chat")
    (system, user, assistant) = json.loads(path.read_text())["messages"]
    assert [system["role"], user["role"], assistant["role"]] == ["system", "user", "assistant"]
    assert "crash, ride, snare, kick, hi-hat, toms" in system["content"]
    assert (user["content"], assistant["content"]) == (RECORD.prompt, RECORD.completion)
    with pytest.raises(DataError, match="no records"):
        write_jsonl(path, [])


def test_a_completion_is_asked_for_as_in_the_paper(fake):
    fake.completes(GOOD)
    (answer,) = continue_groove(Server("davinci", base_url=fake.url + "/", key=KEY), RECORD)
    ((path, headers, body),) = fake.asked
    assert path == "/v1/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "davinci",
        "prompt": RECORD.prompt,
        "temperature": 0.9,
        "max_tokens": 1000,
        "stop": "END",
        "n": 1,
    }
    assert answer == remote.Answer("x", BAR * 16, 0, 0, right_length=True, ended=True)


def test_chat(fake):
    fake.says({"choices": [{"message": {"content": GOOD}, "finish_reason": "length"}]})
    server = Server("small", form="chat", base_url=fake.url)
    options = {"max_tokens": None, "max_completion_tokens": 7}
    (answer,) = continue_groove(server, RECORD, options=options)
    ((path, headers, body),) = fake.asked
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body["messages"][1] == {"role": "user", "content": RECORD.prompt}
    assert ("max_tokens" in body, body["max_completion_tokens"]) == (False, 7)
    assert (answer.text, answer.ended) == (BAR * 16, False)


def test_a_server_that_gives_fewer_samples_is_asked_again(fake):
    fake.completes("a", "b")
    fake.completes("c", "d")
    replies = Server("m", base_url=fake.url).complete(
        "p", Sampling(samples=3, temperature=0.5, max_tokens=9)
    )
    assert [reply.text for reply in replies] == ["a", "b", "c"]
    assert [body["n"] for _, _, body in fake.asked] == [3, 1]
    assert (fake.asked[0][2]["temperature"], fake.asked[0][2]["max_tokens"]) == (0.5, 9)


def test_other_settings_of_sampling(fake):
    fake.completes(GOOD)
    sampling = Sampling(samples=2, top_p=0.8, seed=5)
    continue_groove(Server("m", base_url=fake.url), RECORD, sampling, options={"n": None})
    # The same seed again would give the same text again.
    assert [(body["top_p"], body["seed"]) for _, _, body in fake.asked] == [(0.8, 5), (0.8, 6)]


@pytest.mark.parametrize(("repair", "lines"), [(None, 256), ("pad", 256), ("drop", 255)])
def test_malformed_lines_are_reported_and_mended_if_asked(fake, caplog, repair, lines):
    bad = GOOD.replace("------\n", "--o\n", 1)
    fake.completes(bad)
    (answer,) = continue_groove(Server("m", base_url=fake.url), RECORD, repair=repair)
    assert answer.bad_lines == 1
    assert "x: 1 of 224 lines that m wrote are malformed" in caplog.text
    assert answer.text.count("\n") == lines
    if repair is None:
        assert answer.text == without_separators(RECORD.prompt + bad)


@pytest.mark.parametrize("repair", [None, "pad"])
def test_wrong_lengths_are_told_once_and_cut_only_with_repair(fake, caplog, repair):
    short, long = (BAR + "SEP\n") * 3, GOOD + "SEP\n" + BAR + "------\n" * 8
    choices = [{"text": text, "finish_reason": "stop"} for text in (GOOD, short, long)]
    fake.says({"choices": [*choices, {"text": BAR + BAR[:-1], "finish_reason": "length"}]})
    server = Server("m", base_url=fake.url)
    answers = continue_groove(server, RECORD, Sampling(samples=4), repair=repair)
    cut = "not cut to" if repair is None else "cut to"
    assert caplog.messages == [
        "x: m wrote 14, 3, 15.5, 2 bars, but 14 were wanted: 1 cut off at the most tokens: raise "
        "--max-tokens; 1 ended early by the model itself: try again, or fine-tune it longer; 1 too "
        f"long: {cut} the bars wanted."
    ]
    assert [answer.right_length for answer in answers] == [True, False, False, False]
    assert [answer.ended for answer in answers] == [True, True, True, False]
    assert answers[1].text == BAR * 5
    assert answers[2].text == BAR * 16 if repair else len(bars(answers[2].text)) == 18


SHIFTED = GOOD.replace("------\n", "oo\n", 1)


@pytest.mark.parametrize(
    ("text", "left_out", "bad", "first"),
    [
        (f"Here is the groove:\n\n```text\n---\n{GOOD}```\nI do hope you like it!", 6, 0, BAR),
        (f"{GOOD}END\n```\nSo good: ------\n", 2, 0, BAR),
        (GOOD.replace("\n", " \r\n").replace("SEP", "\nSEP"), 13, 0, BAR),
        (SHIFTED, 0, 1, BAR.replace("------\n", "oo----\n", 1)),
    ],
)
def test_what_is_no_part_of_a_groove_is_left_out(fake, caplog, text, left_out, bad, first):
    fake.says({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    server = Server("m", form="chat", base_url=fake.url)
    (answer,) = continue_groove(server, RECORD, repair="pad")
    assert answer.text == BAR * 2 + first + BAR * 13
    assert (answer.left_out, answer.bad_lines, answer.right_length) == (left_out, bad, True)
    assert len(caplog.messages) == (left_out > 0) + (bad > 0)
    if left_out:
        assert f"x: left out {left_out} lines that m wrote beside the groove" in caplog.text
    (as_it_came,) = continue_groove(server, RECORD)
    assert as_it_came.text == BAR * 2 + without_separators(text)
    assert as_it_came.left_out == 0


def test_rows_begin_with_the_first_row(fake):
    rows = Notation(layout="rows")
    bar = convert(BAR, DRUMROLL, rows)
    fake.completes("S: a groove\n" + bar.split("\n", 1)[1] + "SEP\n" + bar)
    record = Record(bar + "SEP\n", "", "x", rows)
    server = Server("m", base_url=fake.url)
    (answer,) = continue_groove(server, record, groove_bars=2, repair="pad")
    assert (answer.text, answer.left_out) == (bar * 2, 6)


@pytest.mark.parametrize("text", ["", "Sorry, no drums today.\n----\n"])
def test_a_reply_without_a_groove(fake, text):
    fake.completes(text + KEY)
    server = Server("m", base_url=fake.url, key=KEY)
    with pytest.raises(DataError, match=r"x: no line that m wrote.*'------'.*\[key\]") as raised:
        continue_groove(server, RECORD, repair="pad")
    assert KEY not in str(raised.value)
    assert " ".join(text.split()) in str(raised.value)


@pytest.mark.parametrize("form", ["completions", "chat"])
def test_a_bad_sample_does_not_stop_the_others(fake, caplog, form):
    texts = [("No drums.", "stop"), (GOOD, "stop"), ("", "content_filter"), (BAR, "length")]
    choices = [
        {"message": {"content": text}, "finish_reason": reason}
        if form == "chat"
        else {"text": text, "finish_reason": reason}
        for text, reason in texts
    ]
    fake.says({"choices": choices})
    server = Server("m", form=form, base_url=fake.url)
    answers = continue_groove(server, RECORD, Sampling(samples=4), repair="pad")
    assert [answer.text for answer in answers] == ["", BAR * 16, "", BAR * 3]
    assert [answer.right_length for answer in answers] == [False, True, False, False]
    assert "can begin a bar" in answers[0].error
    assert "refuses to answer: 'content filter'" in answers[2].error
    assert [answer.error for answer in answers[1::2]] == ["", ""]
    assert [message[:13] for message in caplog.messages] == [
        "x, sample 1: ",
        "x, sample 3: ",
        "x: m wrote 14",
    ]
    as_they_came = continue_groove(server, RECORD, Sampling(samples=4))
    assert [bool(answer.error) for answer in as_they_came] == [False, False, True, False]


def test_a_prompt_that_is_all_of_the_groove(fake):
    with pytest.raises(ConfigError, match="the prompt has 2 bars; nothing is left"):
        continue_groove(Server("m", base_url=fake.url), RECORD, groove_bars=2)


def test_busy_servers_are_asked_again(fake, pauses, caplog):
    fake.says("busy", 429, Retry_After="7")
    fake.says("overloaded", 503)
    fake.says("down", 500, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    fake.says("busy", 429, Retry_After="9999")
    fake.completes("o")
    (reply,) = Server("m", base_url=fake.url, key=KEY).complete("p")
    assert (reply.text, reply.stopped) == ("o", True)
    assert pauses == [7, 2, 4, 60]
    assert "answers 503; trying again in 2 s" in caplog.text


def test_a_server_that_stays_busy_is_given_up(fake, pauses):
    fake.says(f"your key is {KEY}", 502)
    with pytest.raises(ServerError, match=r"answers 502, 'your key is \[key\]', after 3 attempts"):
        Server("m", base_url=fake.url, key=KEY, retries=2).complete("p")
    assert pauses == [1, 2]


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (
            401,
            f"Incorrect API key: {KEY}",
            ConfigError,
            r"access with this key \(401\).*\[key\]",
        ),
        (404, "no model", ConfigError, r"no such address or no model 'm' \(404\): 'no model'"),
        (400, {"error": {"message": "too long"}}, DataError, r"\(400\): .*too long.*shorter"),
        (302, "", ConfigError, "sends elsewhere"),
        (200, "<html>", DataError, "expected JSON with choices, found '<html>'"),
        (200, {"error": KEY}, DataError, r"found '.*\[key\]"),
        (200, [1], DataError, "not what the OpenAI protocol has"),
        (200, {"choices": []}, DataError, "no choices"),
        (200, "[" * 100_000, DataError, "not what the OpenAI protocol has"),
        (200, '{"choices": ' + "[" * 100_000, DataError, "not what the OpenAI protocol has"),
        (200, " " * (1 << 23), DataError, "longer than 4,194,304 bytes"),
        (200, {"choices": [{"text": "", "refusal": {"a": 1}}]}, DataError, "no reason given"),
        (200, {"choices": [{"text": None}]}, DataError, "not what the OpenAI protocol has"),
        (200, {"choices": [{"message": {"content": ""}}]}, DataError, "not what the OpenAI"),
        (
            200,
            {"choices": [{"text": "", "finish_reason": "content_filter"}]},
            DataError,
            "refuses to answer: 'content filter'",
        ),
    ],
)
def test_answers_that_are_none(fake, caplog, pauses, status, body, error, said):
    caplog.set_level(logging.DEBUG)
    fake.says(body, status, Location="http://127.0.0.1:9/elsewhere")
    with pytest.raises(error, match=said) as raised:
        Server("m", base_url=fake.url, key=KEY).complete("p")
    assert len(fake.asked) == 1
    assert not pauses
    told = f"{raised.value!r} {raised.value.__cause__!r} {caplog.text}"
    assert KEY not in told


def test_a_refusal_of_a_chat_model(fake):
    fake.says({"choices": [{"message": {"content": None, "refusal": "No drums."}}]})
    with pytest.raises(DataError, match=r"refuses to answer: 'No drums\.'"):
        Server("m", form="chat", base_url=fake.url).complete("p")


def test_nobody_answers(fake):
    fake.close()
    with pytest.raises(ServerError, match="cannot be reached"):
        Server("m", base_url=fake.url, key=KEY).complete("p")


def test_a_server_that_does_not_speak_http():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak():
            client, _ = listening.accept()
            with client:
                client.recv(65536)
                client.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(ServerError, match="cannot be reached"):
            Server("m", base_url=url, key=KEY).complete("p")
        thread.join()


def test_an_answer_that_takes_too_long(fake):
    waiting = threading.Event()
    fake.answers = _Late(waiting)
    with pytest.raises(ServerError, match=r"no answer within 0\.1 s"):
        Server("m", base_url=fake.url, timeout=0.1).complete("p")
    waiting.set()


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\n\r\n", b""])
def test_an_answer_that_drips(said):
    """A byte at a time, in the header or after it: no pause is too long, and it never ends."""
    heard = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak():
            client, _ = listening.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(said)
                while not heard.wait(0.02):
                    client.sendall(b"a")

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        began = time.monotonic()
        with pytest.raises(ServerError, match=r"no answer within 0\.5 s|cannot be reached"):
            Server("m", base_url=url, timeout=0.5).complete("p")
        assert time.monotonic() - began < 5
        heard.set()
        thread.join()


def test_a_packed_answer_is_not_unpacked(fake):
    fake.says("x", Content_Encoding="gzip")
    with pytest.raises(DataError, match="the answer is compressed"):
        Server("m", base_url=fake.url).complete("p")
    assert fake.asked[0][1]["Accept-Encoding"] == "identity"


class _Late(list):
    def __init__(self, waiting):
        self.waiting = waiting

    def __len__(self):
        self.waiting.wait(20)
        return 1

    def __getitem__(self, place):
        return 200, "", {}


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    server = Server("m")
    assert (server.base_url, server.key) == ("http://gpu:8000/v1", KEY)
    assert KEY not in repr(server)
    assert Server("m", base_url="http://a/v1").base_url == "http://a/v1"


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("", "", "api.openai.com/v1 needs a key. Set OPENAI_API_KEY"),
        ("gpu:8000", KEY, "no address of a server"),
        ("http://gpu:port/v1", KEY, "no address of a server"),
        ("http://gpu/v1", f"{KEY} {KEY}", "a character that no key has"),
        (f"http://me:{KEY}@gpu/v1", "", "holds a user or password"),
        ("http://gpu/v1", f"{KEY}\nX-Other: 1", "a character that no key has"),
        ("http://gpu/v1", f"{KEY}é", "a character that no key has"),
    ],
)
def test_settings_that_make_no_sense(url, key, said):
    with pytest.raises(ConfigError, match=said) as raised:
        Server("m", base_url=url, key=key)
    assert KEY not in f"{raised.value!r} {raised.value.__context__!r}"


@pytest.mark.parametrize("chat", [False, True])
def test_predict_continues_a_file_on_a_server(fake, tmp_path, capsys, chat):
    write_midi(made_up_grooves([0], bars=2)[0], tmp_path / "groove.mid")
    if chat:
        fake.says({"choices": [{"message": {"content": GOOD}, "finish_reason": "stop"}]})
    else:
        fake.completes(GOOD)
    words = ["predict", "drum-transfer", tmp_path / "groove.mid", "--server", "drummer"]
    words += ["--base-url", fake.url, "--samples", "1", "--formats", "mid", "--out", tmp_path / "o"]
    assert main([*map(str, words), *(["--chat"] if chat else []), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "drummer"
    groove = read_midi(found["samples"][0]["files"][0])
    assert bars(groove.text)[2:] == [BAR] * 14
    assert fake.asked[0][0] == ("/v1/chat/completions" if chat else "/v1/completions")


@pytest.fixture
def predicted(fake, tmp_path, capsys):
    """What predict makes of three grooves on a server; the exit code comes first."""
    for number in range(3):
        groove = made_up_grooves([number], bars=2)[0]
        write_midi(groove, tmp_path / f"{number}.mid")

    def run(*words, files=tmp_path):
        words = [files, "--base-url", fake.url, "--server", "m", "--formats", "mid", *words]
        words += ["--bars", "1", "--samples", "2", "--out", tmp_path / "out", "--json"]
        capsys.readouterr()
        code = main(["predict", "drum-transfer", *map(str, words)])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_predict_keeps_the_good_samples(fake, predicted):
    fake.completes("Sorry.", BAR)
    code, found = predicted()
    assert (code, found["unusable"], found["failed_samples"]) == (0, 0, 3)
    rows = {row["name"]: row for row in found["samples"]}
    assert list(rows) == ["0_1", "0_2", "1_1", "1_2", "2_1", "2_2"]
    for name, row in rows.items():
        if name.endswith("_1"):
            assert "can begin a bar" in row["error"]
        else:
            assert row["files"][0].endswith(f"{name}.mid")


@pytest.mark.parametrize("answered", [0, 1])
def test_predict_does_not_wait_for_a_server_that_is_down(fake, predicted, pauses, answered):
    """Nor does it lose what that has written before."""
    for _ in range(answered):
        fake.completes(BAR, BAR)
    fake.says("down", 503)
    code, found = predicted()
    assert code == 1
    assert len(pauses) == 4
    assert len(fake.asked) == answered + 5
    if answered:
        assert (found["grooves"], found["unusable"]) == (1, 2)
        assert [row["name"] for row in found["samples"]] == ["0_1", "0_2", "1", "2"]
        assert all("answers 503" in row["error"] for row in found["samples"][2:])
    else:
        assert found["error"] == "ServerError"
        assert found["message"].startswith(f"{fake.url}/completions: the server answers 503")


def test_a_request_that_is_refused_does_not_stop_the_others(fake, predicted):
    fake.says("the prompt is too long", 400)
    fake.completes(BAR, BAR)
    code, found = predicted()
    assert (code, found["grooves"], found["unusable"]) == (1, 2, 1)
    assert found["samples"][-1]["error"].startswith("0: ")
    assert "'the prompt is too long'" in found["samples"][-1]["error"]


def test_a_run_says_how_grooves_are_written_for_a_server(fake, predicted, tmp_path):
    data, run, waltz = tmp_path / "data", tmp_path / "run", tmp_path / "waltz.mid"
    data.mkdir()
    for number, groove in enumerate(made_up_grooves(range(6), bars=9)):
        write_midi(groove, data / f"{number}.mid")
    words = ["train", "drum-transfer", "--model", "ngram", "--data", data, "--out", run]
    assert main([*map(str, words), "--notation", "rows", "--meter-bars", "--bars", "9"]) == 0
    write_midi(made_up_grooves([1], bars=4)[0], waltz, meter=(3, 4))
    prompt = to_prompt(read_midi(waltz, Reading(notation="rows", meter_bars=True), bars=2))
    fake.completes(*[prompt.partition("SEP")[0]] * 2)
    code, found = predicted("--run", run, files=waltz)
    assert (code, found["grooves"]) == (0, 1)
    assert fake.asked[0][2]["prompt"] == prompt


def test_weights_may_be_named_of_a_run_beside_a_server(predicted, tmp_path):
    code, found = predicted("--run", tmp_path / "nothing", "--weights", "last")
    assert code == 1
    assert "nothing: no such run folder" in found["message"]
