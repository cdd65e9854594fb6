"""Which modules of the trainer know the CoS format. All others work on pieces and rows, whatever wrote them."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

COS_PARTS = {
    "training/data/pieces.py",
    "training/data/plain_chains.py",
    "training/data/rows.py",
    "training/data/sharegpt.py",
    "training/learning/adapters.py",
    "training/learning/encode.py",
    "training/stages/tokens.py",
}
CLAIM = "part of the trainer that knows CoS"


def sources() -> dict[str, str]:
    """Every module of the trainer, by its path."""
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in (ROOT / "training").rglob("*.py")}


def test_the_cos_format_is_imported_by_its_parts_of_the_trainer_alone() -> None:
    assert {path for path, text in sources().items() if "cos.search.grammars.cos" in text} == COS_PARTS


def test_what_knows_cos_says_so() -> None:
    assert {path for path, text in sources().items() if CLAIM in " ".join(text.split())} == COS_PARTS


def test_no_module_of_the_trainer_asks_a_prm_format_or_a_runtime_by_its_class() -> None:
    classes = ("cos.prm.cos", "cos.prm.math_shepherd", "cos.engines.vllm ", "cos.engines.scripted")
    assert [path for path, text in sources().items() for name in classes if f"from {name}" in text] == []
