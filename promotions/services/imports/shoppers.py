"""Shoppers: users and what promotions know of them."""

from typing import TextIO

from django.db import transaction

from promotions.services.imports import cells
from promotions.services.imports.staging import ImportResult, Progress, Sheet, Staging, upsert

_CONFLICTS = """
    SELECT line, format('repeats the username of line %s', first_line)
    FROM (SELECT line, first_value(line) OVER (PARTITION BY username ORDER BY line) AS first_line
          FROM import_shopper) line
    WHERE line <> first_line
"""

# The password is what Django calls unusable: a "!" and 40 random characters.
_USERS = """
    INSERT INTO auth_user AS target (username, email, password, first_name, last_name,
        is_superuser, is_staff, is_active, date_joined)
    SELECT line.username, line.email,
           '!' || left(replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''), 40),
           '', '', false, false, true, now()
    FROM import_shopper line LEFT JOIN auth_user old ON old.username = line.username
    WHERE old.id IS NULL OR old.email <> line.email
    ON CONFLICT (username) DO UPDATE SET email = excluded.email WHERE target.email <> excluded.email
"""

# Whoever has no e-mail address is told in the application; anybody else as they chose.
_PROFILES = """
    INSERT INTO promotions_shopperprofile (user_id, segment, latitude, longitude,
        time_zone, notifications_enabled, channel)
    SELECT new.* FROM (
        SELECT auth_user.id, line.segment, line.latitude, line.longitude, line.time_zone,
               line.notifications,
               CASE WHEN line.email = '' OR old.user_id IS NULL THEN 'in_app'
                    ELSE old.channel END AS channel
        FROM import_shopper line JOIN auth_user ON auth_user.username = line.username
        LEFT JOIN promotions_shopperprofile old ON old.user_id = auth_user.id
    ) new LEFT JOIN promotions_shopperprofile old ON old.user_id = new.id
    WHERE old.user_id IS NULL
       OR (old.segment, old.latitude, old.longitude, old.time_zone, old.notifications_enabled,
           old.channel)
          IS DISTINCT FROM (new.segment, new.latitude, new.longitude, new.time_zone,
                            new.notifications, new.channel)
    ON CONFLICT (user_id) DO UPDATE
    SET segment = excluded.segment, latitude = excluded.latitude,
        longitude = excluded.longitude, time_zone = excluded.time_zone,
        notifications_enabled = excluded.notifications_enabled, channel = excluded.channel
"""

_TOTAL = "SELECT count(*) FROM import_shopper"


def shoppers_import(
    *, file: TextIO, skip_bad_rows: bool = False, progress: Progress = lambda: None
) -> ImportResult:
    """Bring users and their profiles to what the file, as `open_csv` opens it, says.

    New users have no usable password; known ones keep theirs. Returns counts of `users` and
    `profiles`. Raises ImportRefused, and changes nothing, when the file is wrong or, without
    `skip_bad_rows`, any row.
    """
    with transaction.atomic():
        staging = Staging(
            Sheet(
                table="import_shopper",
                columns={
                    "username": ("text", cells.username),
                    "email": ("text", cells.email),
                    "segment": ("text", cells.segment),
                    "latitude": ("float8", cells.number(-90, 90)),
                    "longitude": ("float8", cells.number(-180, 180)),
                    "time_zone": ("text", cells.time_zone()),
                    "notifications": ("boolean", cells.switch),
                },
            )
        )
        staging.fill(file, progress)
        staging.take_out(_CONFLICTS)
        staging.decide(skip_bad_rows=skip_bad_rows)
        counts = {
            "users": upsert(_USERS, total=_TOTAL),
            "profiles": upsert(_PROFILES, total=_TOTAL),
        }
    return ImportResult(counts, staging.bad_rows)
