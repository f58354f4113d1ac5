"""Django's settings, each from an environment variable that `.env.example` explains."""

import sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

from marketplace import celery_options, logs
from marketplace.env import Env, parse_addresses, parse_list, parse_time_zone, parse_url
from marketplace.sentinel import MasterConnection

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env()

# --- Secrets -------------------------------------------------------------------------------------
DEBUG = env.boolean("DJANGO_DEBUG", False)

# The development stack's own secrets: public, so refused wherever DEBUG is off.
DEVELOPMENT_KEY = "development-only: everybody knows this key, so it protects nothing"
DEVELOPMENT_SECRETS = {
    DEVELOPMENT_KEY,
    "development-only",
    "marketplace",
    "guest",
    "admin",
    "password",
    "changeme",
}
# Tokens are signed by HMAC-SHA256, which a shorter key weakens (RFC 7518, 3.2).
SECRET_KEY_BYTES = 32


# Every secret that is set, so that no log shows it.
SECRET_VALUES: set[str] = set()


def secret(name: str) -> str:
    """A secret that may be unset or public only while DEBUG is on."""
    value = env.text(name)
    refuse_public(name, value)
    return value


def refuse_public(name: str, value: str) -> None:
    if value and value not in DEVELOPMENT_SECRETS:
        SECRET_VALUES.update((value, quote(value, safe="")))
        return
    if DEBUG:
        return
    reason = f"is the public default {value!r}" if value else "is not set"
    raise ImproperlyConfigured(
        f"{name} {reason}: set it to a secret of your own (scripts/init-env writes fresh ones), "
        "or set DJANGO_DEBUG=1 for development."
    )


SECRET_KEY = secret("DJANGO_SECRET_KEY") or DEVELOPMENT_KEY
if not DEBUG and len(SECRET_KEY.encode()) < SECRET_KEY_BYTES:
    raise ImproperlyConfigured(
        f"DJANGO_SECRET_KEY is too short: {len(SECRET_KEY.encode())} bytes, and at least "
        f"{SECRET_KEY_BYTES} are needed (scripts/init-env writes a fresh one)."
    )

# Former keys, which still verify what they signed; scripts/rotate-secrets keeps them.
SECRET_KEY_FALLBACKS = env.words("DJANGO_SECRET_KEY_FALLBACKS", [])
for key in SECRET_KEY_FALLBACKS:
    refuse_public("DJANGO_SECRET_KEY_FALLBACKS", key)

# Flower reads its logins by itself, but loads these settings too: here a public password stops it.
FLOWER_LOGINS = env.words("FLOWER_BASIC_AUTH", [])
for login in FLOWER_LOGINS:
    refuse_public("FLOWER_BASIC_AUTH", login.partition(":")[2])

# --- Django --------------------------------------------------------------------------------------
ALLOWED_HOSTS = env.words("DJANGO_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
# Each web process answers this many requests at once, each with a database connection.
WEB_THREADS = env.integer("WEB_THREADS", 8, minimum=1)
CSRF_TRUSTED_ORIGINS = env.words("DJANGO_CSRF_TRUSTED_ORIGINS", [])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "task_manager",
    "promotions",
    "telemetry",
]

MIDDLEWARE = [
    "marketplace.context.RequestIdMiddleware",
    "marketplace.health.HealthMiddleware",
    "marketplace.proxies.ClientAddressMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "marketplace.limits.LimitsMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "marketplace.sessions.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "marketplace.logins.RefusedLoginMiddleware",
]

ROOT_URLCONF = "marketplace.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "marketplace" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = env.text("DJANGO_LANGUAGE_CODE", "en")
LANGUAGES = [("en", "English"), ("es", "Español")]
LOCALE_PATHS = [BASE_DIR / "locale"]
LOGIN_REDIRECT_URL = "/api/"

STATIC_URL = "/static/"
STATIC_ROOT = env.text("DJANGO_STATIC_ROOT", str(BASE_DIR / "staticfiles"))
MEDIA_ROOT = env.text("DJANGO_MEDIA_ROOT", str(BASE_DIR / "media"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": (
            "django.contrib.staticfiles.storage.StaticFilesStorage"
            if DEBUG
            else "whitenoise.storage.CompressedManifestStaticFilesStorage"
        )
    },
}
WHITENOISE_USE_FINDERS = DEBUG

# --- Security ------------------------------------------------------------------------------------
# A proxy speaks HTTPS for the site. Without one, nobody but this very host should reach it.
HTTPS = env.boolean("DJANGO_HTTPS", not DEBUG)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^metrics$"]  # Prometheus asks from within
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
HSTS_SECONDS = env.integer("DJANGO_HSTS_SECONDS", 31_536_000)
SECURE_HSTS_SECONDS = HSTS_SECONDS if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.boolean("DJANGO_HSTS_SUBDOMAINS", True)
# "preload" would let anybody enter the domain into the browsers' own lists, where it stays.
SILENCED_SYSTEM_CHECKS = ["security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        # The one inline handler of REST framework's pages, which signs out.
        "script-src-attr": [
            "'unsafe-hashes'",
            "'sha256-tHTC1YgZ5UbAs8E2Ib4NjuSS8R05d1nfPHtbmXq05WA='",
        ],
        # Swagger UI draws with both.
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}
# Whose X-Forwarded-For and X-Forwarded-Proto are believed; gunicorn reads the same variable.
TRUSTED_PROXIES = env.read(
    "TRUSTED_PROXIES",
    ["127.0.0.1", "::1"],
    lambda text: [str(ip_network(part)) for part in parse_list(text)],
)
DEFAULT_EXCEPTION_REPORTER_FILTER = "marketplace.masking.ReporterFilter"
MAX_BODY_BYTES = DATA_UPLOAD_MAX_MEMORY_SIZE = env.integer("MAX_BODY_BYTES", 1_048_576, minimum=1)
FILE_UPLOAD_HANDLERS = ["marketplace.limits.RefuseFiles"]

AUTHENTICATION_BACKENDS = ["marketplace.logins.PasswordBackend"]
LOGIN_FAILURES = env.integer("LOGIN_FAILURES", 5, minimum=1)
LOGIN_FAILURES_TOTAL = env.integer("LOGIN_FAILURES_TOTAL", 50, minimum=1)
LOGIN_FAILURES_SECONDS = env.integer("LOGIN_FAILURES_SECONDS", 900, minimum=1)

# --- PostgreSQL ----------------------------------------------------------------------------------
# No statement waits for another's lock without end.
LOCK_TIMEOUT = env.integer("POSTGRES_LOCK_TIMEOUT_MS", 10_000, minimum=1)
# The planner overrates our searches: compiling them would cost more than it saves.
CONNECTION_OPTIONS = f"-c lock_timeout={LOCK_TIMEOUT} -c jit=off"
# Behind PgBouncer, which gives a connection for a transaction: the role has those options then.
POOLED = env.boolean("POSTGRES_POOLED", False)
POSTGRES_PASSWORD_FALLBACK = env.text("POSTGRES_PASSWORD_FALLBACK")
if POSTGRES_PASSWORD_FALLBACK:
    refuse_public("POSTGRES_PASSWORD_FALLBACK", POSTGRES_PASSWORD_FALLBACK)
DATABASES = {
    "default": {
        "ENGINE": "marketplace.postgresql",
        "HOST": env.text("POSTGRES_HOST", "127.0.0.1"),
        "PORT": env.integer("POSTGRES_PORT", 5432, minimum=1),
        "NAME": env.text("POSTGRES_DB", "marketplace"),
        "USER": env.text("POSTGRES_USER", "marketplace"),
        "PASSWORD": secret("POSTGRES_PASSWORD"),
        "PASSWORD_FALLBACK": POSTGRES_PASSWORD_FALLBACK,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            **({} if POOLED else {"options": CONNECTION_OPTIONS}),
        },
        # A cursor that outlives its transaction would be on another connection.
        "DISABLE_SERVER_SIDE_CURSORS": POOLED,
    }
}

# --- Redis ---------------------------------------------------------------------------------------
REDIS_HOST = env.text("REDIS_HOST", "127.0.0.1")
REDIS_PORT = env.integer("REDIS_PORT", 6379, minimum=1)
REDIS_USER = env.text("REDIS_USER", "marketplace")
REDIS_PASSWORD = secret("REDIS_PASSWORD")
REDIS_URL = "redis://{credentials}{host}:{port}/{database}".format(
    credentials=(
        f"{quote(REDIS_USER, safe='')}:{quote(REDIS_PASSWORD, safe='')}@" if REDIS_PASSWORD else ""
    ),
    host=REDIS_HOST,
    port=REDIS_PORT,
    database=env.integer("REDIS_DATABASE", 0),
)
# With these marketplace.sentinel finds the master, and REDIS_HOST and REDIS_PORT count for nothing.
REDIS_SENTINELS: list[tuple[str, int]] = env.read("REDIS_SENTINELS", [], parse_addresses)
REDIS_SENTINEL_MASTER = env.text("REDIS_SENTINEL_MASTER", "marketplace")

# --- AWS: SNS and SQS ----------------------------------------------------------------------------
# Credentials come from the usual AWS_* variables, which boto3 reads by itself.
AWS_ENDPOINT_URL = env.text("AWS_ENDPOINT_URL")
AWS_REGION = env.text("AWS_DEFAULT_REGION", "us-east-1")
SNS_TOPIC_ARN = env.text(
    "SNS_TOPIC_ARN", f"arn:aws:sns:{AWS_REGION}:000000000000:promo-notifications"
)
SQS_QUEUE_NAME = env.text("SQS_QUEUE_NAME", "promo-notifications")
SQS_DEAD_LETTER_QUEUE_NAME = env.text("SQS_DEAD_LETTER_QUEUE_NAME", "promo-notifications-dead")
SQS_WAIT_SECONDS = env.integer("SQS_WAIT_SECONDS", 5)
SQS_RECEIVERS = env.integer("SQS_RECEIVERS", 4, minimum=1)
SNS_PUBLISHERS = env.integer("SNS_PUBLISHERS", 4, minimum=1)

# --- Promotions ----------------------------------------------------------------------------------
RESERVATION_HOLD_SECONDS = env.integer("RESERVATION_HOLD_SECONDS", 60, minimum=1)
PROMO_RETENTION_DAYS = env.integer("PROMO_RETENTION_DAYS", 30)
NOTIFICATION_MAX_ATTEMPTS = env.integer("NOTIFICATION_MAX_ATTEMPTS", 5, minimum=1)
NOTIFICATION_RETRY_SECONDS = env.integer("NOTIFICATION_RETRY_SECONDS", 30)
NOTIFICATION_REPUBLISH_SECONDS = env.integer("NOTIFICATION_REPUBLISH_SECONDS", 300, minimum=1)

# The password of the user demo-shopper, whom `manage.py seed_demo` makes.
DEMO_PASSWORD = env.text("DEMO_PASSWORD")
if DEMO_PASSWORD:
    refuse_public("DEMO_PASSWORD", DEMO_PASSWORD)

# --- Task manager --------------------------------------------------------------------------------
TASK_RETENTION_DAYS = env.integer("TASK_RETENTION_DAYS", 90, minimum=1)
TASK_CANCEL_GRACE_SECONDS = env.integer("TASK_CANCEL_GRACE_SECONDS", 10)
TASK_MAX_DELIVERIES = env.integer("TASK_MAX_DELIVERIES", 3, minimum=1)
TASK_UNKNOWN_SECONDS = env.integer("TASK_UNKNOWN_SECONDS", 3600)
TASK_TRACKING_STREAM_LENGTH = env.integer("TASK_TRACKING_STREAM_LENGTH", 10_000, minimum=1000)
TASK_SECRET_NAMES = env.words(
    "TASK_SECRET_NAMES",
    ["password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "credential"],
)
TASK_NOTIFICATION_MAX_ATTEMPTS = env.integer("TASK_NOTIFICATION_MAX_ATTEMPTS", 5, minimum=1)
TASK_ALERT_SECONDS = env.integer("TASK_ALERT_SECONDS", 900)
TASK_WEBHOOK_SECRET = env.text("TASK_WEBHOOK_SECRET")
if TASK_WEBHOOK_SECRET:
    refuse_public("TASK_WEBHOOK_SECRET", TASK_WEBHOOK_SECRET)
TASK_WEBHOOK_ALLOW_PRIVATE = env.boolean("TASK_WEBHOOK_ALLOW_PRIVATE", False)
FLOWER_URL = env.text("FLOWER_URL", "http://127.0.0.1:5555")
FLOWER_LOGIN = FLOWER_LOGINS[0] if FLOWER_LOGINS else ""
METRICS_TOKEN = env.text("METRICS_TOKEN")
if METRICS_TOKEN:
    refuse_public("METRICS_TOKEN", METRICS_TOKEN)

# --- Telemetry -----------------------------------------------------------------------------------
# Without it there is no telemetry to sync.
PANACCESS_URL = env.read("PANACCESS_URL", "", parse_url)
PANACCESS_USERNAME = env.text("PANACCESS_USERNAME")
PANACCESS_PASSWORD = env.text("PANACCESS_PASSWORD")
PANACCESS_API_TOKEN = env.text("PANACCESS_API_TOKEN")
for value in (PANACCESS_PASSWORD, PANACCESS_API_TOKEN):
    if value:
        SECRET_VALUES.update((value, quote(value, safe="")))
# IANA name of the zone in which PanAccess tells times.
PANACCESS_TIME_ZONE = env.read("PANACCESS_TIME_ZONE", "UTC", parse_time_zone)
PANACCESS_TIMEOUT_SECONDS = env.seconds("PANACCESS_TIMEOUT_SECONDS", 30.0)

# --- E-mail --------------------------------------------------------------------------------------
EMAIL_HOST = env.text("EMAIL_HOST")
EMAIL_BACKEND = (
    "django.core.mail.backends.smtp.EmailBackend"
    if EMAIL_HOST
    else "django.core.mail.backends.console.EmailBackend"
)
EMAIL_PORT = env.integer("EMAIL_PORT", 587, minimum=1)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD")
if EMAIL_HOST_PASSWORD:
    refuse_public("EMAIL_HOST_PASSWORD", EMAIL_HOST_PASSWORD)
EMAIL_USE_TLS = env.boolean("EMAIL_USE_TLS", True)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text(
    "DEFAULT_FROM_EMAIL", "Flash Promos <promos@localhost>"
)
ADMINS = [("", address) for address in env.words("DJANGO_ADMINS", [])]
EMAIL_SUBJECT_PREFIX = "[Flash Promos] "

# --- API -----------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        # JWT first: its WWW-Authenticate header makes an anonymous call a 401.
        "rest_framework_simplejwt.authentication.JWTAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": [
        "marketplace.parsers.JSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "marketplace.api.Pagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "marketplace.api.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Flash Promos",
    "DESCRIPTION": "Flash promos near the shopper: browse, reserve, complete.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "marketplace.api.document_errors",
    ],
    "ENUM_NAME_OVERRIDES": {
        "Segment": "promotions.models.Segment",
        "Channel": "promotions.models.Channel",
        "PromoStatus": "promotions.models.PromoStatus",
        "ReservationStatus": "promotions.models.ReservationStatus",
        "NotificationStatus": "promotions.models.NotificationStatus",
        "TaskStatus": "task_manager.models.TaskStatus",
        "TaskEvent": "task_manager.models.NotificationEvent",
        "DeadLetterStatus": "task_manager.models.DeadLetterStatus",
    },
}
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=15),
    # A new password ends the tokens that came by the old one, as it ends sessions.
    "CHECK_REVOKE_TOKEN": True,
    "AUTH_TOKEN_CLASSES": ["marketplace.tokens.AccessToken"],
    "TOKEN_REFRESH_SERIALIZER": "marketplace.tokens.TokenRefreshSerializer",
}

# --- Celery --------------------------------------------------------------------------------------
QUEUES = ("high_priority", "default", "low_priority")
CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = REDIS_URL
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_RESULT_EXPIRES = 86_400
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_SOFT_TIME_LIMIT = 240
CELERY_TASK_TIME_LIMIT = 300
CELERY_WORKER_POOL_RESTARTS = True
CELERY_WORKER_CONSUMER = "marketplace.unknown_tasks:Consumer"
CELERY_WORKER_LOG_FORMAT = logs.LINE
CELERY_WORKER_TASK_LOG_FORMAT = logs.TASK_LINE
# Celery's Django fixup closes the connection around every task unless this is set.
CELERY_DB_REUSE_MAX = 1000
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # an outage may last; the default ends the worker
REDIS_OPTIONS: dict[str, Any] = {
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    **REDIS_OPTIONS,
    # Seconds between two looks for messages whose worker is gone.
    "unacked_restore_interval": 5,
    "queue_limits": dict.fromkeys(QUEUES, env.integer("QUEUE_LIMIT", 50_000)),
}
CELERY_REDIS_SOCKET_TIMEOUT = 30.0
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 5.0
CELERY_REDIS_SOCKET_KEEPALIVE = True

CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_QUEUES: dict[str, dict[str, Any]] = {name: {} for name in QUEUES}
CELERY_TASK_ROUTES = {
    "promotions.tasks.check_active_promos": {"queue": "high_priority"},
    "promotions.tasks.release_expired_reservations": {"queue": "high_priority"},
    "promotions.tasks.cleanup_expired_promos": {"queue": "low_priority"},
    "telemetry.tasks.*": {"queue": "low_priority"},
    # These are for when other queues are full.
    "task_manager.tasks.check_queues": {"queue": "high_priority"},
    "task_manager.tasks.reconcile_executions": {"queue": "high_priority"},
    "task_manager.tasks.*": {"queue": "low_priority"},
}

CELERY_BEAT_SCHEDULER = "marketplace.beat.Scheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 5
# Without Celery's prefix: RedBeat warns of a fallback unless it finds these very names.
REDBEAT_REDIS_URL = REDIS_URL
REDBEAT_REDIS_OPTIONS = REDIS_OPTIONS | (
    {"connection_class": MasterConnection} if REDIS_SENTINELS else {}
)
# A dead beat's lock frees itself after this long, and the standby goes on.
CELERY_REDBEAT_LOCK_TIMEOUT = 15


# Of each entry one message waits at most: marketplace.beat sees to it.
def periodic(task: str, period: float) -> dict[str, Any]:
    return {"task": task, "schedule": period}


CELERY_BEAT_SCHEDULE = {
    "check-flash-promos-every-minute": periodic(
        "promotions.tasks.check_active_promos", env.seconds("CHECK_ACTIVE_PROMOS_SECONDS", 60.0)
    ),
    "process-notification-queue-every-30s": periodic(
        "promotions.tasks.process_notification_queue",
        env.seconds("PROCESS_NOTIFICATION_QUEUE_SECONDS", 30.0),
    ),
    "release-expired-reservations-every-minute": periodic(
        "promotions.tasks.release_expired_reservations",
        env.seconds("RELEASE_EXPIRED_RESERVATIONS_SECONDS", 60.0),
    ),
    "cleanup-expired-promos-every-hour": periodic(
        "promotions.tasks.cleanup_expired_promos",
        env.seconds("CLEANUP_EXPIRED_PROMOS_SECONDS", 3600.0),
    ),
    "reconcile-executions-every-minute": periodic(
        "task_manager.tasks.reconcile_executions", env.seconds("RECONCILE_EXECUTIONS_SECONDS", 60.0)
    ),
    "check-queues-every-minute": periodic(
        "task_manager.tasks.check_queues", env.seconds("CHECK_QUEUES_SECONDS", 60.0)
    ),
    "cleanup-executions-every-hour": periodic(
        "task_manager.tasks.cleanup_executions", env.seconds("CLEANUP_EXECUTIONS_SECONDS", 3600.0)
    ),
    "sync-and-merge-telemetry": periodic(
        "telemetry.tasks.sync_and_merge_telemetry_chain",
        env.seconds("SYNC_AND_MERGE_TELEMETRY_SECONDS", 120.0),
    ),
    "deliver-task-notifications-every-15s": periodic(
        "task_manager.tasks.deliver_notifications",
        env.seconds("DELIVER_TASK_NOTIFICATIONS_SECONDS", 15.0),
    ),
}

globals().update(celery_options.read())
# docs/scaling.md says what would not hold on another.
if not CELERY_BROKER_URL.startswith(("redis://", "rediss://")):
    raise ImproperlyConfigured(
        f"CELERY_BROKER_URL is a {CELERY_BROKER_URL.partition(':')[0]!r} one: leases, limits and "
        "the sweeps need Redis as the broker (redis://)."
    )

# --- Liveness, logs and traces -------------------------------------------------------------------
LIVENESS_FILE = env.text("LIVENESS_FILE")

LOGGING_CONFIG = "marketplace.logs.configure"
LOGGING = logs.configuration(
    env,
    logs.service_of(sys.argv),
    filters={
        "context": {"()": "marketplace.context.ContextFilter"},
        "secrets": {"()": "marketplace.masking.SecretsFilter"},
    },
    line=CELERY_WORKER_LOG_FORMAT,
    task_line=CELERY_WORKER_TASK_LOG_FORMAT,
)

# The SDK reads it, too, and the other OTEL_* variables.
OTEL_EXPORTER_OTLP_ENDPOINT = env.text("OTEL_EXPORTER_OTLP_ENDPOINT")
if OTEL_EXPORTER_OTLP_ENDPOINT:
    # After HealthMiddleware: probes are not traced.
    MIDDLEWARE.insert(2, "marketplace.tracing.TracingMiddleware")
