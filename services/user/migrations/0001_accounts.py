"""Accounts. The checks are a floor under the code: of a closed account no personal data is left."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """
        CREATE TABLE account (
            id              uuid PRIMARY KEY,
            version         bigint NOT NULL CHECK (version >= 1),
            name            text,
            email           text CHECK (email ~ '^[!-~]+@[!-~]+$'),
            phone           text,
            age             smallint CHECK (age BETWEEN 0 AND 150),
            order_mail      boolean NOT NULL,
            marketing_mail  boolean NOT NULL,
            locale          text,
            created_at      timestamptz NOT NULL DEFAULT now(),
            closed_at       timestamptz,
            CONSTRAINT account_known CHECK (closed_at IS NOT NULL OR num_nulls(name, email, locale) = 0),
            CONSTRAINT account_erased CHECK (closed_at IS NULL OR (
                num_nonnulls(name, email, phone, age, locale) = 0 AND NOT order_mail AND NOT marketing_mail))
        )
        """
    )
    # Closed accounts have no e-mail, and nulls are equal to nothing. "C": the same letters in every locale.
    op.execute('CREATE UNIQUE INDEX account_email ON account (lower(email COLLATE "C"))')


def downgrade() -> None:
    """Drop the table with all that is in it."""
    op.execute("DROP TABLE account")
