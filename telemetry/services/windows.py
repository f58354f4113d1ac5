"""Which views a channel's name is for, in SQL.

A record of action 7 tells the name of its `data_id`, when it has one. It is for the views, records
of action 8, from its time to that of the next such record; that of the first is for those before
it, too.
"""

RECORDS = "telemetry_telemetryrecordentry"

_NAMES = "action_id = 7 AND data_name <> ''"
_ORDER = "timestamp, record_id"


def views_named_by(told: str) -> str:
    """A query of the views that the names told by these records are for, for a query of records.

    Of records that tell no name nothing comes.
    """
    # OFFSET 0 keeps the planner from joining otherwise than by the index of views.
    return f"""
        SELECT view.* FROM ({_windows(told)} OFFSET 0) named
        CROSS JOIN LATERAL (
            SELECT * FROM {RECORDS}
            WHERE action_id = 8 AND data_id = named.data_id
              AND timestamp >= named.since AND timestamp < named.until
            OFFSET 0) view
    """


def _windows(told: str) -> str:
    return f"""
        SELECT told.data_id,
               CASE WHEN EXISTS (
                        SELECT FROM {RECORDS} earlier
                        WHERE {_NAMES} AND data_id = told.data_id
                          AND ({_ORDER}) < (told.timestamp, told.record_id))
                    THEN told.timestamp ELSE '-infinity' END AS since,
               coalesce((SELECT timestamp FROM {RECORDS}
                         WHERE {_NAMES} AND data_id = told.data_id
                           AND ({_ORDER}) > (told.timestamp, told.record_id)
                         ORDER BY {_ORDER} LIMIT 1), 'infinity') AS until
        FROM ({told} OFFSET 0) told WHERE {_NAMES}
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
