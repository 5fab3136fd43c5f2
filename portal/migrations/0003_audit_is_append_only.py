"""The database itself refuses to change or delete audit events."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION portal_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit events are append-only';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON portal_auditevent
    FOR EACH ROW EXECUTE FUNCTION portal_refuse_change();
"""
BACKWARD = "DROP TRIGGER audit_append_only ON portal_auditevent; DROP FUNCTION portal_refuse_change();"


class Migration(migrations.Migration):
    dependencies = [("portal", "0002_row_security")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
