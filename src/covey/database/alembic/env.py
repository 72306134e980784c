"""Run by Alembic for each history; `covey.database.migrations` hands over an open connection and the version table."""

from alembic import context

connection = context.config.attributes["connection"]
table, schema = context.config.attributes["version_table"]
context.configure(
    connection=connection,
    version_table=table,
    version_table_schema=schema,
    transaction_per_migration=True,
    on_version_apply=lambda *, step, **_: context.config.attributes["applied"].append(step.up_revision_id),
)
with context.begin_transaction():
    context.run_migrations()
