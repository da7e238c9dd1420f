"""The error tree is drawn as it is, and both shells answer every fault."""

import importlib
import pickle
import pkgutil
import re

import jackfield
from jackfield import Fault, JackfieldError, errors
from jackfield._grpc.errors import STATUS as GRPC_STATUS
from jackfield._http.errors import STATUS as HTTP_STATUS


def classes():
    """Find all error classes of the distribution, wherever they are defined."""
    for module in pkgutil.walk_packages(jackfield.__path__, "jackfield."):
        importlib.import_module(module.name)
    found, new = set(), {JackfieldError}
    while new:
        found |= new
        new = {child for each in new for child in each.__subclasses__()} - found
    return {each for each in found if each.__module__.partition(".")[0] == "jackfield"}


def drawn():
    """Read the tree at the top of errors.py: class name -> name of its parent."""
    parents, path = {}, []
    tree = errors.__doc__.partition("\n\n")[2].partition("\n\n")[0]
    for line in tree.splitlines():
        match = re.match(r"(?P<indent>[│├└─ ]*)(?P<name>\w+)", line)
        depth = len(match["indent"]) // 4
        path[depth:] = [match["name"]]
        parents[match["name"]] = path[depth - 1] if depth else "Exception"
    return parents


def test_both_shells_have_a_status_for_each_fault_and_no_more():
    assert set(HTTP_STATUS) == set(Fault)
    assert set(GRPC_STATUS) == set(Fault)


def test_the_drawn_tree_is_the_tree_of_the_classes():
    assert drawn() == {each.__name__: each.__base__.__name__ for each in classes()}


def test_every_error_class_is_a_public_name_that_ends_in_error():
    for each in classes():
        assert each.__module__ == "jackfield.errors"
        assert each.__name__.endswith("Error")
        assert each.__name__ in errors.__all__
        assert getattr(jackfield, each.__name__) is each


def test_the_page_has_an_example_of_every_class_that_is_raised(generate):
    raised = {each for each in classes() if not each.__subclasses__()}
    raised |= {errors.ModelLoadError, errors.RuntimeFailedError}  # beside those that derive from it
    assert {type(example) for example in generate.EXAMPLES} == raised


def test_an_error_keeps_its_facts_and_tells_them(generate):
    for example in generate.EXAMPLES:
        facts = vars(example)
        assert facts
        assert all(str(fact) in str(example) for fact in facts.values() if isinstance(fact, str))


def test_a_text_is_one_line_without_full_stop(generate):
    for example in generate.EXAMPLES:
        text = str(example)
        assert "\n" not in text
        assert not text.endswith(".")


def test_an_error_crosses_to_another_process_with_its_facts(generate):
    for error in generate.EXAMPLES:
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is type(error)
        assert (str(found), vars(found)) == (str(error), vars(error))
