from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Where the password is refused it tries POSTGRES_PASSWORD_FALLBACK.

    PostgreSQL knows one password at a time: so scripts/rotate-secrets changes it under programs
    that know both, and none is locked out.
    """

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        fallback = self.settings_dict["PASSWORD_FALLBACK"]
        try:
            return super().get_new_connection(conn_params)
        except self.Database.OperationalError:
            if not fallback:
                raise
            return super().get_new_connection(conn_params | {"password": fallback})
