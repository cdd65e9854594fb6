"""Writes the dashboards: ``python deploy/grafana/builder [FOLDER]``; into deploy/grafana/dashboards unless given."""

import json
import sys
from pathlib import Path

from economics_board import economics
from engines_board import engines
from latency_board import latency
from traffic_board import traffic


def main() -> None:
    """One file a dashboard, named after its uid."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "dashboards"
    for built in (latency(), economics(), engines(), traffic()):
        text = json.dumps(built, indent=2, ensure_ascii=False)
        (folder / f"{built['uid']}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
