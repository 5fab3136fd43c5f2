"""How static files are stored: hashed and compressed, including the modules that JavaScript files import."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedStaticFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Rewrites imports between JavaScript modules, so that an upgrade never mixes old and new ones."""

    support_js_module_import_aggregation = True
