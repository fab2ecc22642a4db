"""Interventions that concern no shard, and the models of the admin's pages of breakers and of the load balancer."""

from django.db import migrations, models


def page(name, length, **names):
    return migrations.CreateModel(
        name=name,
        fields=[("id", models.CharField(max_length=length, primary_key=True, serialize=False))],
        options={"managed": False, "default_permissions": ("view", "change"), **names},
    )


class Migration(migrations.Migration):
    dependencies = [("replication", "0001_initial")]

    operations = [
        migrations.AlterField("Intervention", "shard", models.PositiveSmallIntegerField(null=True)),
        page("Breaker", 40),
        page("LoadBalancer", 40, verbose_name_plural="load balancer"),
    ]
