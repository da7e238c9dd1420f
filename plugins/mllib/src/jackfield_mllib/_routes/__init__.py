"""The ways from a request's columns to a model's, and the choice among them when it loads.

What goes in and what comes out are arrays with the rows first, one for each column:

- numbers and truth values: [n] of the dtype of the column's type (`double` is float64 …);
- texts: [n] of objects, `str`;
- vectors, and lists of floats that all have one length: [n, width], else objects: an array each;
- other lists: [n] of objects, a `list` each;
- missing values make an array of objects with None.

`dataframe` (`_frame`) is what every model can take; `gateway` runs the model's own compiled plan.

Used by the runtime; knows nothing of requests and responses.
"""

from __future__ import annotations

from jackfield_mllib._routes._choice import Choice, Wish, choose_route
from jackfield_mllib._routes._route import Arrays, Route

__all__ = ["Arrays", "Choice", "Route", "Wish", "choose_route"]
