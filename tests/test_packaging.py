"""Started in the repository root, Python still finds Hugging Face's libraries, and ours beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, *arguments: str) -> list[str]:
    """Lines printed by ``python -c code`` in the repository root, whose folders then lead ``sys.path``."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_our_data_floor_is_no_package_of_the_root() -> None:
    assert (ROOT / "datasets" / "schema.py").exists()
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_ours_are_imported_from_this_checkout() -> None:
    code = (
        "import sys; assert sys.path[0] == ''\n"
        "import prunebench.datasets.schema as s, prunebench.benchmark.plugins as p\n"
        "print(s.__file__, p.__file__, sep='\\n')"
    )
    assert python(code) == [str(ROOT / "datasets" / "schema.py"), str(ROOT / "benchmark" / "plugins.py")]


def test_every_folder_with_code_is_packaged() -> None:
    code = (
        "import importlib.util, sys\nfor name in sys.argv[1:]:\n    print(importlib.util.find_spec(name) is not None)"
    )
    floors = ("benchmark", "methods", "recommenders", "datasets", "leaderboard")
    folders = sorted({path.parent.relative_to(ROOT) for floor in floors for path in (ROOT / floor).rglob("*.py")})
    names = [".".join(("prunebench", *folder.parts)) for folder in folders]
    assert dict(zip(names, python(code, *names), strict=True)) == dict.fromkeys(names, "True")


HUGGING_FACE = """
import sys
import datasets
from tokenizers import Tokenizer, models, pre_tokenizers

table = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 4, "labels": [[1, 2, 3, 4]] * 4})
print(len(table), "site-packages" in datasets.__file__ or "dist-packages" in datasets.__file__)

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
shape = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
model = LlamaForCausalLM(LlamaConfig(**shape))
before = model.lm_head.weight.detach().clone()
arguments = TrainingArguments(
    output_dir=sys.argv[1], max_steps=1, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    logging_strategy="no",
)
outcome = Trainer(model=model, args=arguments, train_dataset=table).train()
print(outcome.global_step, outcome.training_loss > 0, not torch.equal(before, model.lm_head.weight))

from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding

tokenizer = Tokenizer(models.WordLevel({"a": 0, "game": 1, "[UNK]": 2}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
encoder = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
print(encoder.encode(["a game", "a"]).shape)
"""


@pytest.mark.slow
def test_hugging_face_libraries_import_and_work_from_the_root(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="Hugging Face datasets comes with the extra `test`")
    lines = [line for line in python(HUGGING_FACE, str(tmp_path)) if not line.startswith("{")]
    assert lines == ["4 True", "1 True True", "(2, 4)"]
