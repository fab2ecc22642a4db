"""The permission to see the statistics of components, which have no table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("counters", "0009_writes_of_batches")]

    operations = [
        migrations.CreateModel(
            name="Component",
            fields=[("id", models.CharField(max_length=80, primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view",)},
        ),
    ]
