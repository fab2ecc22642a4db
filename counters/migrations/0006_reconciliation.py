"""The operators' page of reconciliation: a content type and permissions, no table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("counters", "0005_operators_pages")]
    operations = [
        migrations.CreateModel(
            name="Reconciliation",
            fields=[("id", models.CharField(max_length=80, primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view", "change"), "verbose_name_plural": "reconciliation"},
        ),
    ]
