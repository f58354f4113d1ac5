"""What `docker stats` prints."""

from deploy.ops.compose import used_memory


def test_a_container_of_which_nothing_is_known_has_no_figure():
    stats = """\
0123456789ab 61.5MiB / 768MiB
fedcba987654 2GiB / 7.6GiB
-- -- / --
 -- / --
aaaaaaaaaaaa 0B / 0B
"""
    assert used_memory(stats) == {
        "0123456789ab": int(61.5 * 2**20),
        "fedcba987654": 2 * 2**30,
    }
