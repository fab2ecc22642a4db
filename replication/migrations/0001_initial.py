"""Interventions on the shards' servers, in the control database, and models of admin pages, which have no tables."""

from django.db import migrations, models


def page(name, length, **names):
    return migrations.CreateModel(
        name=name,
        fields=[("id", models.CharField(max_length=length, primary_key=True, serialize=False))],
        options={"managed": False, "default_permissions": ("view", "change"), **names},
    )


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Intervention",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("shard", models.PositiveSmallIntegerField()),
                ("action", models.CharField(max_length=40)),
                ("node", models.CharField(blank=True, max_length=200)),
                ("reason", models.TextField()),
                ("by", models.CharField(max_length=200)),
                ("outcome", models.TextField(blank=True)),
            ],
            options={
                "ordering": ["-at"],
                "default_permissions": ("view",),
                "indexes": [models.Index(fields=["-at"], name="intervention_newest")],
            },
        ),
        page("Replica", 220, verbose_name="server"),
        page("Shard", 10),
    ]
