"""generators

Revision: 0002, after: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('generators',
    sa.Column('id', sa.String(length=30), nullable=False),
    sa.Column('job_id', sa.String(length=30), nullable=False),
    sa.Column('name', sa.String(length=120), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('bundle', sa.String(length=64), nullable=True),
    sa.Column('files', sa.JSON(), nullable=True),
    sa.Column('report', sa.JSON(), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_generators_job_id_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_generators')),
    sa.UniqueConstraint('job_id', name=op.f('uq_generators_job_id'))
    )
    with op.batch_alter_table('jobs') as batch_op:
        batch_op.add_column(sa.Column('generator_id', sa.String(length=30), nullable=True))


def downgrade() -> None:
    # Jobs that train generators mean nothing to the code of the revision before: what hangs on them goes with them.
    for table in ('outbox', 'checkpoints'):
        op.execute(f"DELETE FROM {table} WHERE task_id IN (SELECT id FROM tasks WHERE stage = 'generator')")
    op.execute("DELETE FROM tasks WHERE stage = 'generator'")
    op.execute("DELETE FROM events WHERE job_id IN (SELECT job_id FROM generators)")
    op.execute("DELETE FROM results WHERE stage = 'generator'")
    op.drop_table('generators')
    op.execute("DELETE FROM jobs WHERE generator_id IS NOT NULL")
    with op.batch_alter_table('jobs') as batch_op:
        batch_op.drop_column('generator_id')
