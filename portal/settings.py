"""Settings: the only module that reads the environment.

Development works with no variable set; production (TUNEPORT_ENV=production) refuses to start on weak secrets.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from ipaddress import ip_network
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _
from psycopg.conninfo import conninfo_to_dict

from portal.oidc.config import read_providers

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent
ENVIRONMENT = env.str("TUNEPORT_ENV", default="development")
if ENVIRONMENT not in ("development", "production"):
    raise ImproperlyConfigured("TUNEPORT_ENV must be 'development' or 'production'.")
PRODUCTION = ENVIRONMENT == "production"
DEBUG = env.bool("TUNEPORT_DEBUG", default=False)
if PRODUCTION and DEBUG:
    raise ImproperlyConfigured("TUNEPORT_DEBUG must not be on in production.")

# Everything that the portal writes lies below this folder: database, models, datasets, adapters.
DATA_DIR = Path(env.str("TUNEPORT_DATA_DIR", default="") or BASE_DIR / "var").resolve()


_LEAST_DIFFERENT = 12  # 50 random hexadecimal digits have more different ones than that, words repeated have not


def _secret(name: str) -> str:
    """Return a secret from the environment; in development from DATA_DIR/secrets.json, made at random on first use."""
    value: str = env.str(name, default="")
    if PRODUCTION and len(value) < 50:
        raise ImproperlyConfigured(f"{name} must be set to at least 50 random characters in production.")
    if PRODUCTION and (len(set(value)) < _LEAST_DIFFERENT or "insecure" in value):
        raise ImproperlyConfigured(f"{name} is not random. Make one with: openssl rand -base64 48")
    if value:
        return value
    path = DATA_DIR / "secrets.json"
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    with (DATA_DIR / "secrets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that start together must not each make their own
        stored: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if name not in stored:
            stored[name] = secrets.token_urlsafe(48)
            aside = path.with_suffix(f".{os.getpid()}")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as handle:
                json.dump(stored, handle)
            aside.replace(path)
    return stored[name]


SECRET_KEY = _secret("TUNEPORT_SECRET_KEY")
TOKEN_PEPPER = _secret("TUNEPORT_TOKEN_PEPPER")
# To change the pepper: give the new one a new id and keep the old one, as {"id": "pepper"}, until its tokens are gone.
TOKEN_PEPPER_ID = env.str("TUNEPORT_TOKEN_PEPPER_ID", default="1")
OLD_TOKEN_PEPPERS = env.json("TUNEPORT_OLD_TOKEN_PEPPERS", default={})


def _check_old_peppers() -> None:
    known = OLD_TOKEN_PEPPERS.items() if isinstance(OLD_TOKEN_PEPPERS, dict) else [("", "")]
    if not all(isinstance(pepper, str) and len(pepper) >= 50 for _id, pepper in known):
        raise ImproperlyConfigured(
            'TUNEPORT_OLD_TOKEN_PEPPERS must be JSON such as {"1": "…"}, each pepper of at least 50 characters.'
        )
    if not 0 < len(TOKEN_PEPPER_ID) <= 20 or TOKEN_PEPPER_ID in OLD_TOKEN_PEPPERS:
        raise ImproperlyConfigured("TUNEPORT_TOKEN_PEPPER_ID must have 1 to 20 characters and differ from old ids.")


_check_old_peppers()

# Seals the teams' secrets. To change it: put the new key here and the old one into the list, run `manage.py
# rotatesecrets`, then drop the old one.
SECRETS_KEY = _secret("TUNEPORT_SECRETS_KEY")
OLD_SECRETS_KEYS: list[str] = env.list("TUNEPORT_OLD_SECRETS_KEYS", default=[])
if not all(len(key) >= 50 for key in OLD_SECRETS_KEYS):
    raise ImproperlyConfigured("TUNEPORT_OLD_SECRETS_KEYS must be keys of at least 50 characters, split by commas.")
if PRODUCTION and len({SECRET_KEY, TOKEN_PEPPER, SECRETS_KEY}) < 3:
    raise ImproperlyConfigured("TUNEPORT_SECRET_KEY, _TOKEN_PEPPER and _SECRETS_KEY must differ from each other.")

# What the operator's monitoring shows at /metrics to read the platform's figures; without one there is no such page.
METRICS_TOKEN = env.str("TUNEPORT_METRICS_TOKEN", default="")
if METRICS_TOKEN and not 20 <= len(METRICS_TOKEN) <= 200:
    raise ImproperlyConfigured("TUNEPORT_METRICS_TOKEN must have 20 to 200 characters; without it /metrics is closed.")

ALLOWED_HOSTS = env.list("TUNEPORT_ALLOWED_HOSTS", default=[] if PRODUCTION else ["localhost", "127.0.0.1", "[::1]"])
_wide = [host for host in ALLOWED_HOSTS if "*" in host or (host.startswith(".") and host.count(".") < 2)]
if PRODUCTION and (not ALLOWED_HOSTS or _wide):
    raise ImproperlyConfigured("TUNEPORT_ALLOWED_HOSTS must name the portal's hosts in production, without '*'.")
CSRF_TRUSTED_ORIGINS = env.list("TUNEPORT_TRUSTED_ORIGINS", default=[])

# Hosts and networks inside the company that imports may fetch from, besides the public internet: "s3.intern:9000,
# *.corp.example, 10.20.0.0/16:443". Without an entry nothing that is not public is reached.
OUTBOUND_ALLOW: list[str] = env.list("TUNEPORT_OUTBOUND_ALLOW", default=[])

# Where data sets are fetched from; a mirror of the hub inside the company goes here, and into OUTBOUND_ALLOW.
HUB_ENDPOINT = env.str("TUNEPORT_HUB_ENDPOINT", default="https://huggingface.co").rstrip("/")
KAGGLE_ENDPOINT = "https://www.kaggle.com/api/v1"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.usersessions",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_q",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "portal",
    "datasets_app",
    "experiments",
    "deployments",
    "gpu_worker",
]

MIDDLEWARE = [
    "portal.middleware.trusted_proxies",
    "portal.middleware.security_headers",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "portal.middleware.request_id",
    "portal.refusals.note_refusals",
    "portal.middleware.programs_pass_by",  # from here …
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.impersonation.see_through",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "portal.middleware.programs_enter",  # … to here requests under /v1 pass by
    "portal.middleware.require_policy",
    "portal.maintenance.closed_for_maintenance",
    "portal.bad_tokens.refuse_bad_tokens",
    "portal.middleware.domain_errors",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.context.navigation",
            ],
        },
    },
]

# Widgets and fields only; Django's templates take many times as long.
FORM_RENDERER = "portal.widgets.PlainWidgets"


# Database connections that a process with many threads shares (manage.py up sets it for its web servers); 0: one for
# each thread. Never for the queue: its forked children would share them.
DATABASE_POOL = env.int("TUNEPORT_DATABASE_POOL", default=0)


def _pool() -> dict[str, object]:
    return {"pool": {"min_size": 1, "max_size": DATABASE_POOL, "timeout": 10}} if DATABASE_POOL else {}


def _database() -> dict[str, object]:
    """Return the database entry from DATABASE_URL, which manage.py points to the embedded server when it is unset."""
    url = env.str("DATABASE_URL", default="")
    known = conninfo_to_dict(url) if url else {}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": known.pop("dbname", "tuneport"),
        "USER": known.pop("user", ""),
        "PASSWORD": known.pop("password", ""),
        "HOST": known.pop("host", ""),
        "PORT": known.pop("port", ""),
        # With a pool connections live in it, not in threads.
        "CONN_MAX_AGE": 0 if DATABASE_POOL else 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": known | _pool(),
    }


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "portal_cache",
        # It counts tries and used codes: none may be thrown out before its time. `portal.tasks.prune` removes old ones.
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},
    }
}

AUTH_USER_MODEL = "portal.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "portal:home"
LOGOUT_REDIRECT_URL = "account_login"

# People: e-mail addresses, verified; sign-up by invitation only (portal.accounts.adapters).
ACCOUNT_ADAPTER = "portal.accounts.adapters.AccountAdapter"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_SIGNUP_FORM_CLASS = "portal.accounts.forms.PersonForm"
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_USER_DISPLAY = "portal.accounts.adapters.display_name"
# One network may guess 30 times an hour at one person, so it takes several to shut anybody out.
ACCOUNT_RATE_LIMITS = {"login_failed": "10/m/ip,5/10m/key", "login_failed_account": "120/h/key"}
MFA_ADAPTER = "portal.accounts.adapters.MfaAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
REQUIRE_ADMIN_MFA = env.bool("TUNEPORT_REQUIRE_ADMIN_MFA", default=PRODUCTION)
try:
    SIGN_IN_PROVIDERS = read_providers(env.str("TUNEPORT_OIDC", default=""))
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from None
SOCIALACCOUNT_ADAPTER = "portal.oidc.adapter.SocialAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "provider_class": "portal.oidc.provider.OidcProvider",
        "APPS": [provider.allauth_app() for provider in SIGN_IN_PROVIDERS],
    }
}
ACCOUNT_FORMS = {"signup": "portal.accounts.sign_up.SignUpForm"}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "portal.storage.HashedStaticFiles"},
}
WHITENOISE_MANIFEST_STRICT = False

# Uploads go to disk while they arrive, never to memory; the portal counts their bytes itself.
FILE_UPLOAD_HANDLERS = ["portal.uploads.BoundedTemporaryFileHandler"]
FILE_UPLOAD_TEMP_DIR = DATA_DIR / "tmp"
FILE_UPLOAD_TEMP_DIR.mkdir(parents=True, exist_ok=True)
MAX_UPLOAD_BYTES = env.int("TUNEPORT_MAX_UPLOAD_BYTES", default=512 * 1024 * 1024)
# What comes in parts that can be resumed, or is fetched from elsewhere, may be larger than what comes in one piece.
MAX_DATASET_BYTES = env.int("TUNEPORT_MAX_DATASET_BYTES", default=max(MAX_UPLOAD_BYTES, 1024 * 1024 * 1024))
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 1024 * 1024

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 14 * 24 * 3600
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "portal.views.errors.csrf_failure"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
HTTPS = env.bool("TUNEPORT_HTTPS", default=PRODUCTION)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if HTTPS else "http"
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not HTTPS  # browsers take passkeys on http://localhost only
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
# Behind our proxy the caller's address is the last one in X-Forwarded-For; those before it may be forged.
BEHIND_PROXY = env.bool("TUNEPORT_BEHIND_PROXY", default=False)
# Only these are believed (see portal.middleware.trusted_proxies); a proxy on another machine has to be named.
TRUSTED_PROXIES = [
    ip_network(one) for one in env.list("TUNEPORT_TRUSTED_PROXIES", default=["127.0.0.0/8", "::1/128"]) if one
]
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
CONTENT_SECURITY_POLICY = {
    "default-src": "'self'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}

# smtp+tls://user:password@host:587; without it mail goes to the terminal, in production nowhere.
vars().update(env.email_url("TUNEPORT_EMAIL_URL", default="dummymail://" if PRODUCTION else "consolemail://"))
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("TUNEPORT_EMAIL_FROM", default="Tuneport <tuneport@localhost>")
EMAIL_TIMEOUT = 10

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["portal.authentication.ApiTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["portal.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "portal.api.pagination.Pages",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "portal.api.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tuneport API",
    "DESCRIPTION": "Datasets, experiments, runs, adapters and deployments of one team under /api/; what OpenAI's "
    "clients speak under /v1/. Authenticate with an API token.",
    "VERSION": "1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SERVE_INCLUDE_SCHEMA": False,
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": r"/api/",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "deployments.openai_api.document.complete",
    ],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "CancellableWorkStatus": "datasets_app.models.DoctorReport.Status",
        "DatasetVersionStatus": "datasets_app.models.DatasetVersion.Status",
        "ExportKind": "deployments.models.ModelExport.Kind",
        "OrderedRunKind": "experiments.serializers.ORDERED_KINDS",
        "RunKind": "experiments.models.Run.Kind",
        "RunStatus": "experiments.models.Run.Status",
        "Split": "datasets_app.models.Split",
        "WorkStatus": "deployments.models.ModelExport.Status",
    },
    "AUTHENTICATION_WHITELIST": ["portal.authentication.ApiTokenAuthentication"],
}

# Queue tasks are short (a run lives in its own supervisor), so a lost one comes back within minutes.
NODE_NAME = env.str("TUNEPORT_NODE", default="local")
_CLUSTER = {
    "workers": 2,
    "timeout": 240,
    "retry": 300,
    "bulk": 1,
    "queue_limit": 2,
    "max_attempts": 3,
    "ack_failures": False,
    "save_limit": 0,
    "catch_up": False,
    "orm": "default",
    "poll": 0.3,
}
Q_CLUSTER = {
    "name": "default",
    **_CLUSTER,
    "ALT_CLUSTERS": {f"gpu-{NODE_NAME}": {**_CLUSTER, "workers": 1}},
}

# A run's supervisor renews its lease; a lease that ran out means that the node, the supervisor or the network is gone.
LEASE_SECONDS = env.int("TUNEPORT_LEASE_SECONDS", default=20)
NODE_TIMEOUT_SECONDS = env.int("TUNEPORT_NODE_TIMEOUT_SECONDS", default=20)
# None: one for each GPU, or one on a node without.
NODE_SLOTS: int | None = env.int("TUNEPORT_NODE_SLOTS", default=None)
# What an hour of a slot, that is of a GPU or a node without, costs the company, shown with predictions of a run's time;
# 0: nothing is said about cost.
NODE_HOUR_PRICE = env.float("TUNEPORT_NODE_HOUR_PRICE", default=0.0)
NODE_HOUR_CURRENCY = env.str("TUNEPORT_NODE_HOUR_CURRENCY", default="EUR")
NODE_ADDRESS = env.str("TUNEPORT_NODE_ADDRESS", default="127.0.0.1")
# Who serves models on this node: "auto" takes vLLM where a GPU and its program are there, else our own engine.
ENGINE = env.str("TUNEPORT_ENGINE", default="auto")
if ENGINE not in ("auto", "tuneport", "vllm"):
    raise ImproperlyConfigured("TUNEPORT_ENGINE must be 'auto', 'tuneport' or 'vllm'.")
VLLM_COMMAND = env.str("TUNEPORT_VLLM_COMMAND", default="vllm")
# Arithmetic of our own engine: exact, or faster and slightly different.
ENGINE_WEIGHTS = env.str("TUNEPORT_ENGINE_WEIGHTS", default="fp32")
if ENGINE_WEIGHTS not in ("fp32", "bf16", "int8"):
    raise ImproperlyConfigured("TUNEPORT_ENGINE_WEIGHTS must be 'fp32', 'bf16' or 'int8'.")
# Trainers and evaluators are walled in by the kernel; off only where a driver of a GPU cannot live with that.
TRAINER_WALL = env.bool("TUNEPORT_TRAINER_WALL", default=True)
# Requests to engines that one process puts at the same time; further ones are told to come back. Keep it below the
# threads of the process, so that some are left for everything else (manage.py up sets it for its two services).
MODEL_REQUESTS = env.int("TUNEPORT_MODEL_REQUESTS", default=1000)
ENGINE_TIMEOUT_SECONDS = env.int("TUNEPORT_ENGINE_TIMEOUT_SECONDS", default=120)

# "line" for people, "json" for a log store. Neither shows anybody's data: see portal/logs.py.
LOG_FORMAT = env.str("TUNEPORT_LOG_FORMAT", default="line")
if LOG_FORMAT not in ("line", "json"):
    raise ImproperlyConfigured("TUNEPORT_LOG_FORMAT must be 'line' or 'json'.")
LOG_EMAILS = env.bool("TUNEPORT_LOG_EMAILS", default=False)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "portal.logs.LineFormatter"}, "json": {"()": "portal.logs.JsonFormatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": env.str("TUNEPORT_LOG_LEVEL", default="INFO")},
    "loggers": {
        "django.server": {"level": "WARNING"},
        # One line for each request, where somebody collects them; a terminal shows what failed.
        "portal.access_log": {"level": "INFO" if PRODUCTION or LOG_FORMAT == "json" else "ERROR"},
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        "botocore": {"level": "WARNING"},  # names keys and signatures when it tells more
        "django-q": {"handlers": ["console"], "level": "WARNING", "propagate": False},
    },
}
