"""The operators' page of likes: a content type and a permission, no table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("likes", "0002_removals")]
    operations = [
        migrations.CreateModel(
            name="Like",
            fields=[("id", models.CharField(max_length=400, primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view",)},
        ),
    ]
