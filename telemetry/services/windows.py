"""Which views a channel's name is for, in SQL.

A record of action 7 tells the name of its `data_id`, when it has one. It is for the views, records
of action 8, from its time on to that of the next other name; the first is for those before it, too.
"""

RECORDS = "telemetry_telemetryrecordentry"

_NAMES = "action_id = 7 AND data_name <> ''"
_ORDER = "timestamp, record_id"


#: What decides which views a name is for.
TOLD = ("record_id", "timestamp", "action_id", "data_id", "data_name")


def views_named_by(told: str, *, revision: str, merged: str) -> str:
    """A query of the views up to a revision that the names told by these records are for.

    `told` is a query of records, of TOLD at least. Of those that tell no name nothing comes, and
    neither of those that repeat the name before them when that is merged, or is about to be: up to
    that revision.
    """
    # OFFSET 0 keeps the planner from joining otherwise than by the index of views.
    return f"""
        SELECT view.* FROM ({_windows(told, merged)} OFFSET 0) named
        CROSS JOIN LATERAL (
            SELECT * FROM {RECORDS}
            WHERE action_id = 8 AND data_id = named.data_id
              AND timestamp >= named.since AND timestamp < named.until
              AND revision <= {revision}
            OFFSET 0) view
    """


def _windows(told: str, merged: str) -> str:
    return f"""
        SELECT told.data_id,
               CASE WHEN before.data_name IS NULL THEN '-infinity' ELSE told.timestamp END AS since,
               coalesce((SELECT timestamp FROM {RECORDS}
                         WHERE {_NAMES} AND data_id = told.data_id
                           AND ({_ORDER}) > (told.timestamp, told.record_id)
                           AND data_name <> told.data_name
                         ORDER BY {_ORDER} LIMIT 1), 'infinity') AS until
        FROM (SELECT data_id, data_name, {_ORDER} FROM ({told} OFFSET 0) told
              WHERE {_NAMES} OFFSET 0) told
        LEFT JOIN LATERAL (
            SELECT data_name, revision FROM {RECORDS}
            WHERE {_NAMES} AND data_id = told.data_id
              AND ({_ORDER}) < (told.timestamp, told.record_id)
            ORDER BY timestamp DESC, record_id DESC LIMIT 1) before ON true
        WHERE before.data_name IS DISTINCT FROM told.data_name OR before.revision > {merged}
    """


def name_of(view: str) -> str:
    """The name for a view: told at its time or last before it, else first after it, else none."""
    return f"""
        coalesce((SELECT data_name FROM {RECORDS}
                  WHERE {_NAMES} AND data_id = {view}.data_id AND timestamp <= {view}.timestamp
                  ORDER BY timestamp DESC, record_id DESC LIMIT 1),
                 (SELECT data_name FROM {RECORDS}
                  WHERE {_NAMES} AND data_id = {view}.data_id AND timestamp > {view}.timestamp
                  ORDER BY {_ORDER} LIMIT 1),
                 '')
    """


# Statistics of tables that just grew by a lot are wrong: each row is found by its index.
PLAN = """
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_hashjoin = off;
    SET LOCAL enable_mergejoin = off;
    SET LOCAL synchronous_commit = off;
"""
