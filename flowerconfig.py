"""Flower's login and signs of life: Flower looks for this very file where it is started.

FLOWER_BASIC_AUTH by itself would let an empty one pass, and knows no FLOWER_BASIC_AUTH_FILE.
"""

import sys

from django.conf import settings
from tornado.ioloop import PeriodicCallback
from tornado.options import options

from marketplace import liveness

basic_auth = settings.FLOWER_LOGINS
if not (settings.DEBUG or basic_auth or options.auth):
    sys.exit(
        "error: FLOWER_BASIC_AUTH is not set: set it to user:password (scripts/init-env writes a "
        "fresh one), or set DJANGO_DEBUG=1 for development."
    )

PeriodicCallback(liveness.touch, 2_000).start()
