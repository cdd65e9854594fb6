"""The parts of a Grafana dashboard (JSON of Grafana 10.4 and newer): one function a kind of panel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]

COLUMNS = 24
"""Width of a dashboard in Grafana's grid."""
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
INTRODUCTION_HEIGHT = 3


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its series, ``{{label}}`` standing for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel and how much room it takes in the grid."""

    json: Json
    width: int
    height: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels under it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Look:
    """How a line panel is drawn."""

    stacked: bool = False
    exemplars: bool = False
    top: float | None = None
    """Largest value of the axis, where the values have one."""


PLAIN = Look()


def lines(
    title: str, about: str, unit: str, queries: Sequence[Query], width: int = 8, look: Look | None = None
) -> Panel:
    """Values over time."""
    look = look or Look()
    custom: Json = {
        "lineWidth": 1 if look.stacked else 2,
        "fillOpacity": 60 if look.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if look.stacked else "none", "group": "A"},
    }
    defaults: Json = {"unit": unit, "min": 0, "custom": custom}
    if look.top is not None:
        defaults["max"] = look.top
    options: Json = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, about, queries, width, defaults, options, exemplar=look.exemplars)


def heatmap(title: str, about: str, unit: str, buckets: str, width: int = 12) -> Panel:
    """How many observations fell into each bucket of a histogram, over time. ``buckets``: an expression by ``le``."""
    options: Json = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64, "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "le"},
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "unit": unit},
    }
    query = Query(buckets, "{{le}}")
    return _panel("heatmap", title, about, [query], width, {"unit": unit}, options, exemplar=True, format="heatmap")


def number(title: str, about: str, unit: str, query: Query, width: int = 4, limits: Sequence[float] = ()) -> Panel:
    """The newest value, large. ``limits``: green below the first, yellow from it, red from the second."""
    colours = ("green", "yellow", "red")
    steps = [{"color": colour, "value": value} for colour, value in zip(colours, (None, *limits), strict=False)]
    defaults: Json = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options: Json = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value" if limits else "none",
        "graphMode": "area",
        "textMode": "value_and_name",
    }
    panel = _panel("stat", title, about, [query], width, defaults, options)
    return replace(panel, height=5)


def state(title: str, about: str, query: Query, width: int = 4) -> Panel:
    """A large yes (1, green) or no (0, red)."""
    panel = number(title, about, "short", query, width)
    texts = {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}
    panel.json["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": texts}]
    panel.json["options"]["colorMode"] = "background"
    return panel


def table(title: str, about: str, query: Query, width: int = 12) -> Panel:
    """The labels of some series, a line each."""
    panel = _panel("table", title, about, [query], width, {"unit": "short"}, {"showHeader": True}, format="table")
    panel.json["targets"][0].update({"instant": True, "range": False})
    panel.json["transformations"] = [
        {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True, "job": True}}}
    ]
    return replace(panel, height=5)


def each_engine(panel: Panel) -> Panel:
    """The panel once for each chosen engine, side by side."""
    repeated = {"repeat": "engine", "repeatDirection": "h", "maxPerRow": 2}
    return Panel({**panel.json, **repeated}, COLUMNS // 2, panel.height)


def _panel(
    kind: str,
    title: str,
    about: str,
    queries: Sequence[Query],
    width: int,
    defaults: Json,
    options: Json,
    *,
    exemplar: bool = False,
    format: str = "time_series",
) -> Panel:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": format,
            "range": True,
            "exemplar": exemplar,
        }
        for index, query in enumerate(queries)
    ]
    return Panel(
        {
            "type": kind,
            "title": title,
            "description": about,
            "datasource": DATASOURCE,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": options,
            "targets": targets,
        },
        width,
    )


def board(uid: str, title: str, about: str, rows: Sequence[Row], variables: Sequence[Json]) -> Json:
    """A whole dashboard; panels are set from left to right, a new line where one does not fit."""
    panels: list[Json] = [_introduction(about)]
    y = INTRODUCTION_HEIGHT
    for row in rows:
        panels.append(_heading(row.title, y))
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            panels.append({**panel.json, "gridPos": _at(x, y, panel.width, panel.height)})
            # A repeated panel fills its line.
            x, tallest = COLUMNS if "repeat" in panel.json else x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["cos-serve"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [_siblings()],
        "templating": {"list": list(variables)},
        "panels": [{"id": index, **panel} for index, panel in enumerate(panels, 1)],
    }


def _at(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _heading(title: str, y: int) -> Json:
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _at(0, y, COLUMNS, 1)}


def _introduction(about: str) -> Json:
    return {
        "type": "text",
        "title": "About this dashboard",
        "description": "What this dashboard is for.",
        "options": {"mode": "markdown", "content": about},
        "gridPos": _at(0, 0, COLUMNS, INTRODUCTION_HEIGHT),
    }


def _siblings() -> Json:
    return {
        "type": "dashboards",
        "title": "cos-serve",
        "tags": ["cos-serve"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
    }


def datasource_variable() -> Json:
    """Which Prometheus is asked."""
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0}


def label_variable(name: str, label: str, query: str, everything: str | None = None) -> Json:
    """Values of a label, several at once; all of them unless chosen. ``query``: as ``label_values(metric, label)``.
    ``everything``: the regular expression that "All" stands for, the listed values unless given."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        **({} if everything is None else {"allValue": everything}),
    }
