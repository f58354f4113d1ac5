"""The real settings on the embedded servers, which importing this starts."""

from tests import servers

servers.use()

from marketplace.settings import *  # noqa: E402, F403

# The tables are emptied after a test while a worker still writes its history. Where the two lock
# each other it is the worker who gives way, and tries again.
DATABASES["default"]["OPTIONS"] = {  # noqa: F405
    "options": f"{CONNECTION_OPTIONS} -c deadlock_timeout=30s"  # noqa: F405
}

# The plain hasher: tests make many users.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# Static files are found where they lie: nothing is collected.
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS = True
