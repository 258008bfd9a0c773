"""rejected count: how many photos of a dataset were left out

Revision: 0004, after: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('datasets') as batch_op:
        batch_op.add_column(sa.Column('rejected_count', sa.Integer(), server_default='0', nullable=False))
    # Of older datasets no more is known than what is listed, which ends at 1,000.
    op.execute("UPDATE datasets SET rejected_count = json_array_length(rejected)")


def downgrade() -> None:
    with op.batch_alter_table('datasets') as batch_op:
        batch_op.drop_column('rejected_count')
