"""Django's PostgreSQL, with two passwords while one takes the other's place."""
