"""Answers to decide, in our own words."""

from __future__ import annotations

from bioie_ray.dmcr.review.queue import Item, ItemQueue
from bioie_ray.dmcr.verdict import judge

AMIODARONE = (
    "Thyroid trouble and tremor after amiodarone in an older patient\n"
    "A 71-year-old woman took amiodarone for atrial fibrillation. Within four months she had lost weight and slept badly, and a fine "
    "tremor of both hands made it hard to write. Free thyroxine was high and thyrotropin could not be measured: amiodarone-induced "
    "thyrotoxicosis. Prednisolone was given, on which her blood glucose rose, and steroid-induced diabetes was treated with insulin. The "
    "tremor went away after amiodarone was stopped. Her son has Crohn's disease (in remission); there was no family history of "
    "thyroid disease."
)
LITHIUM = (
    "Nephrogenic diabetes insipidus under long-term lithium\n"
    "Two men on lithium for bipolar disorder passed more than six litres of urine a day. Desmopressin had no effect. Amiloride reduced "
    "the polyuria in both, and in one of them indomethacin did so as well, at the price of a gastric ulcer."
)
HEPATITIS = (
    "Isoniazid and the liver\nOf 212 adults on isoniazid, nine had raised transaminases and one had acute hepatitis; none had jaundice."
)


def an_item(
    document_id: str,
    task: str,
    text: str,
    answer: str,
    a: list | None,
    b: list | None,
    repeat: int = 1,
    replies: tuple[str, str] | None = None,
) -> Item:
    kind = "re" if task == "bc5cdr_cid" else "ner"
    list_a, list_b = (None if found is None else tuple(tuple(x) if isinstance(x, list) else x for x in found) for found in (a, b))
    verdict = judge(answer, text, list_a, list_b, kind)
    reply_a, reply_b = replies or (str(a), str(b))
    return Item(document_id, repeat, task, kind, text, answer, reply_a, reply_b, list_a, list_b, verdict.invented_a, verdict.invented_b)


ITEMS = [
    an_item(
        "10071832",
        "bc5cdr_disease",
        AMIODARONE,
        "The diseases in the text are:\n\n1. atrial fibrillation\n2. tremor (of both hands)\n3. amiodarone-induced thyrotoxicosis\n"
        "4. steroid-induced diabetes\n5. Crohn's disease - in her son\n\nWeight loss is a symptom, so I left it out.",
        ["atrial fibrillation", "tremor", "thyrotoxicosis", "steroid-induced diabetes", "Crohn's disease"],
        ["atrial fibrillation", "tremor", "amiodarone-induced thyrotoxicosis", "diabetes", "Crohn's disease", "hyperthyroidism"],
    ),
    an_item(
        "10071832",
        "bc5cdr_cid",
        AMIODARONE,
        "amiodarone -> thyrotoxicosis; amiodarone -> tremor; prednisolone -> diabetes",
        [["amiodarone", "thyrotoxicosis"], ["amiodarone", "tremor"], ["prednisolone", "diabetes"]],
        [["amiodarone", "thyrotoxicosis"], ["tremor", "amiodarone"]],
        repeat=2,
    ),
    an_item(
        "10215554",
        "bc5cdr_disease",
        LITHIUM,
        "bipolar disorder, polyuria and",
        ["bipolar disorder", "polyuria"],
        None,
        replies=('["bipolar disorder", "polyuria"]', "I would need the text to do that."),
    ),
    an_item("10391877", "bc5cdr_disease", HEPATITIS, "hepatitis / jaundice (none had it)", ["acute hepatitis", "jaundice"], ["hepatitis"]),
    an_item("10440912", "bc5cdr_disease", HEPATITIS, "None that isoniazid did not cause: hepatitis.", [], ["hepatitis"]),
    an_item(
        "10533204",
        "bc5cdr_disease",
        '<img src=x onerror="document.title=1">\nA note on <b>gout</b>.',
        "<script>document.title=2</script> gout & [tophi]",
        ["gout", "[tophi]", "<b>"],
        ["gout"],
    ),
]


def a_queue(items: list[Item] | None = None) -> ItemQueue:
    return ItemQueue("dmcr/diseases@1", ITEMS if items is None else items)
