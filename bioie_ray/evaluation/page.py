"""The report's page: the templates only place what the views of ``page_coverage`` and ``page_scores`` work out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bioie_ray.evaluation import numbers
from bioie_ray.evaluation.page_coverage import FOREST_WIDTH, OVERVIEW_WIDTH, overview_rows, reranker_view, task_view
from bioie_ray.evaluation.page_headline import headline
from bioie_ray.evaluation.page_instructions import instructions_view
from bioie_ray.evaluation.page_scores import score_view
from bioie_ray.evaluation.page_training import MIX_WIDTH, preferences_view, stage_views

if TYPE_CHECKING:  # report.py imports this module; only the types come back
    from bioie_ray.evaluation.report import ReportData


def render(data: ReportData, files: Sequence[str]) -> str:
    """The page as one HTML text without any reference to the network; all text of the data is escaped. ``files`` lie beside it."""
    env = Environment(
        loader=PackageLoader("bioie_ray.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        percent=numbers.percent, bare_percent=numbers.bare_percent, points=numbers.points, count=numbers.count, anchor=_anchor
    )
    style = _source(env, "report.css") + _source(env, "scores.css")
    script = _source(env, "report.js")
    tasks = [task_view(data, key) for key in dict.fromkeys(r.task for r in data.results)]
    sampled = {q.task for q in data.samples} - {t.key for t in tasks}
    if sampled:
        raise ValueError(f"sample queries of {', '.join(sorted(sampled))}, but no result of that task; give both or neither")
    scores = score_view(data)
    overview_axis, overview = overview_rows(tasks)
    return env.get_template("report.html.j2").render(
        data=data,
        tasks=tasks,
        headline=headline(data, tasks, scores.tasks),
        scores=scores,
        overview=overview,
        overview_axis=overview_axis,
        instructions=[instructions_view(summary) for summary in data.instructions],
        preferences=[preferences_view(summary) for summary in data.preferences],
        stages=stage_views(data.stages),
        rerankers=[reranker_view(r) for r in data.rerankers],
        style=Markup(style),  # noqa: S704  our own file, no data in it
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
        files=files,
        forest_width=FOREST_WIDTH,
        overview_width=OVERVIEW_WIDTH,
        mix_width=MIX_WIDTH,
    )


def _anchor(source: str) -> str:
    """The id of a source's row in the provenance table."""
    return f"made-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def _source(env: Environment, name: str) -> str:
    assert env.loader is not None
    return env.loader.get_source(env, name)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
