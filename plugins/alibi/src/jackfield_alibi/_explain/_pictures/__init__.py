"""Explanations to look at: a page of HTML that needs nothing else, or one PNG.

`draw` is all that others need. A kind's module turns an `Explanation` into a `Page` of headings,
plots and tables; `_html` and `_png` are the two forms of a page. Only what paints imports
matplotlib, by its objects: no state that two threads could share.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal

from jackfield_alibi._explain._pictures._page import Names, Page, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation

__all__ = ["FORMS", "MEDIA_TYPES", "draw"]

#: Forms of a picture, and their media types.
MEDIA_TYPES: Mapping[str, str] = {"html": "text/html; charset=utf-8", "png": "image/png"}
FORMS = tuple(MEDIA_TYPES)

#: ``module:function`` for each kind; the function takes an explanation and a `View`.
_PAGES: Mapping[str, str] = {
    "kernel_shap": "_shap:shap_page",
    "tree_shap": "_shap:shap_page",
    "anchor_tabular": "_anchors:rules_page",
    "anchor_text": "_anchors:text_page",
    "anchor_image": "_images:anchor_page",
    "integrated_gradients": "_attributions:attributions_page",
    "ale": "_curves:ale_page",
    "partial_dependence": "_curves:dependence_page",
    "tree_partial_dependence": "_curves:dependence_page",
    "partial_dependence_variance": "_importance:variance_page",
    "tree_partial_dependence_variance": "_importance:variance_page",
    "permutation_importance": "_importance:permutation_page",
    "cem": "_changes:contrast_page",
    "counterfactual": "_changes:counterfactual_page",
    "counterfactual_proto": "_changes:counterfactual_page",
    "counterfactual_rl": "_changes:counterfactual_page",
    "gradient_similarity": "_similar:similar_page",
}


def draw(
    explanation: Explanation,
    form: Literal["html", "png"],
    *,
    model: str = "",
    feature_names: Sequence[str] = (),
    target_names: Sequence[str] = (),
    categorical_names: Mapping[int, Sequence[str]] | None = None,
    classes: Sequence[int] | None = None,
    instances: NDArray[Any] | Sequence[str] | None = None,
) -> bytes:
    """Draw an explanation of any kind.

    At most so many rows, classes and features are drawn that a person can read them; what was left
    out is said on the picture. Safe in any thread; takes some tenths of a second of CPU.

    Args:
        explanation: What an engine gave.
        form: ``html``: a page of UTF-8 with tables and images inside, without scripts. ``png``: one
            image, 1008 pixels wide.
        model: Name of the explained model, for the heading.
        feature_names: Names of the columns, where the explanation has none.
        target_names: Names of the classes, where the explanation has none.
        categorical_names: Names of the categories, by the feature's place.
        classes: Places of the classes to draw; None: the predicted one, and in HTML some more.
        instances: The rows that were explained: Alibi's counterfactuals do not tell them, and are
            shown beside them.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There is no such form.
    """
    if form not in MEDIA_TYPES:
        message = f"expected a form of {', '.join(FORMS)}, found '{form}'"
        raise ValueError(message)
    names = Names(
        tuple(map(str, feature_names)), tuple(map(str, target_names)), dict(categorical_names or {})
    )
    chosen = None if classes is None else tuple(classes)
    view = View(names, chosen, is_brief=form == "png", instances=instances)
    page = _page_of(explanation, view, model)
    if form == "html":
        from jackfield_alibi._explain._pictures._html import render_html

        return render_html(page)
    from jackfield_alibi._explain._pictures._png import render_png

    return render_png(page)


def _page_of(explanation: Explanation, view: View, model: str) -> Page:
    path = _PAGES.get(explanation.kind, "_similar:plain_page")
    module, _, name = path.partition(":")
    make = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    page: Page = make(explanation, view)
    if model:
        page.facts.insert(0, ("model", model))
    library = explanation.meta.get("name")
    if library:
        page.facts.append(
            ("explainer", f"{library} {explanation.meta.get('version') or ''}".strip())
        )
    return page
