"""disk comes back: jobs are deleted fast, finished trainings let their checkpoints go

Revision: 0003, after: 0002
"""

from __future__ import annotations

from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without it, each task that goes with its job costs a look at every checkpoint.
    with op.batch_alter_table('checkpoints') as batch_op:
        batch_op.create_index(batch_op.f('ix_checkpoints_task_id'), ['task_id'], unique=False)
    op.execute("UPDATE checkpoints SET bundle = NULL WHERE key IN (SELECT key FROM results)")


def downgrade() -> None:
    with op.batch_alter_table('checkpoints') as batch_op:
        batch_op.drop_index(batch_op.f('ix_checkpoints_task_id'))
