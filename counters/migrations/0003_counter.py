"""The admin's `Counter`: a content type and permissions, no table. API keys get their prefix as id, so that no address shows a hash."""

from django.db import migrations, models
from django.db.models import F


def use_prefix_as_id(apps, schema_editor):
    if schema_editor.connection.alias == "default":
        apps.get_model("counters", "ApiKey").objects.update(id=F("prefix"))


class Migration(migrations.Migration):
    dependencies = [("counters", "0002_api_keys")]
    operations = [
        migrations.CreateModel(
            name="Counter",
            fields=[("key", models.CharField(max_length=200, primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view", "change")},
        ),
        migrations.RunPython(use_prefix_as_id, migrations.RunPython.noop),
    ]
