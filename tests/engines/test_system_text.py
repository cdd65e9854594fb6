"""What a checkpoint says of the text that it takes."""

from pathlib import Path

from cos.checkpoints import embedded
from cos.engines.checkpoint import takes_system_text


def test_the_embedded_policy_says_that_it_knows_no_system_text(tmp_path: Path) -> None:
    assert not takes_system_text(str(embedded("policy")))
    assert takes_system_text("some/hub-name")
    (tmp_path / "config.json").write_text("{}")
    assert takes_system_text(str(tmp_path))
