"""What the admin shows operators: content types and permissions, no tables."""

from django.db import migrations, models


def page(name, plural, permissions):
    return migrations.CreateModel(
        name=name,
        fields=[("id", models.CharField(max_length=80, primary_key=True, serialize=False))],
        options={"managed": False, "default_permissions": permissions, **({"verbose_name_plural": plural} if plural else {})},
    )


class Migration(migrations.Migration):
    dependencies = [("counters", "0004_operators_indexes")]
    operations = [
        page("JournalEntry", "journal entries", ("view", "change")),
        page("DeadLetter", None, ("view", "change")),
        page("RejectedOperation", None, ("view",)),
        page("ForwardedBatch", "forwarded batches", ("view",)),
    ]
