"""Pages of the platform admins' console."""
