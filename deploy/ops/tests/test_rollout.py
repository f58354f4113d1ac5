"""What scripts/upgrade remembers of the releases that ran."""

from pathlib import Path

import pytest

from deploy.ops.errors import OpsError, UsageError
from deploy.ops.rollback import chosen
from deploy.ops.rollout import KEPT, History


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "var" / "releases.json")


def test_the_release_that_runs_is_the_last(history: History) -> None:
    assert history.read() == []
    history.went_to("b", before="a")
    history.went_to("c", before="b")
    assert history.read() == ["a", "b", "c"]


def test_back_is_a_step_to_those_before(history: History) -> None:
    history.write(["a", "b", "c"])
    history.went_to("b", before="c")
    assert history.read() == ["a", "b"]
    assert chosen(history.read(), None) == "a"


def test_what_ran_without_an_upgrade_is_remembered_too(history: History) -> None:
    history.write(["a", "b"])
    history.went_to("c", before="by-hand")
    assert history.read() == ["a", "b", "by-hand", "c"]


def test_the_oldest_are_forgotten(history: History) -> None:
    names = [str(number) for number in range(KEPT)]
    history.write(names)
    assert history.went_to("new", before=names[-1]) == ["0"]
    assert history.read() == [*names[1:], "new"]


def test_a_release_is_chosen_by_its_name_or_its_tag() -> None:
    names = ["shop:1", "shop:2", "shop:3"]
    assert chosen(names, None) == "shop:2"
    assert chosen(names, "shop:1") == chosen(names, "1") == "shop:1"
    with pytest.raises(UsageError, match="4 did not run here; these did: shop:1, shop:2, shop:3"):
        chosen(names, "4")
    with pytest.raises(OpsError, match="no release to go back to"):
        chosen(["shop:1"], None)


def test_a_broken_file_is_named(history: History) -> None:
    history.write(["a"])
    history.path.write_text("{")
    with pytest.raises(OpsError, match=r"releases\.json cannot be read"):
        history.read()
