"""The operators' pages of lanes and of spill queues: content types and permissions, no tables."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("counters", "0013_api_key_last_used")]
    operations = [
        migrations.CreateModel(
            name="LaneQueue",
            fields=[("id", models.CharField(max_length=80, primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view", "change"), "verbose_name": "lane"},
        ),
        migrations.CreateModel(
            name="SpillQueue",
            fields=[("id", models.CharField(max_length=80, primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view", "change")},
        ),
    ]
