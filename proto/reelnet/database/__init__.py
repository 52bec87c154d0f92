"""What keeps a component's state in a database: an engine for a URL, a schema with a version, migrations.

Import from its modules; SQLAlchemy and Alembic come with them.
"""
