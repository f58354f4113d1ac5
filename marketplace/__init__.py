import sys

# First, so that every program has the variables of ENV_FILE.
from marketplace.env import Env

# redis-py imports OpenTelemetry wherever it finds it: time and memory for each process. Where no
# traces are wanted (see `marketplace.tracing`), it finds none.
if not Env().raw("OTEL_EXPORTER_OTLP_ENDPOINT"):
    sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]

from marketplace.celery import app as celery_app

__all__ = ["celery_app"]
