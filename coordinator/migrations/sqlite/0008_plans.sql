-- What the planner is to know of the tables: those of a fleet with a million tasks of ten tenants. Without it, it takes a tenant for a few rows
-- and walks over all of a tenant's tasks where an index leads to three. A store begins empty and fills within minutes, so that no ANALYZE
-- would come in time; one that somebody runs replaces this.
ANALYZE;
DELETE FROM sqlite_stat1;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('tasks', 'tasks', '1000000 100000 1'),
    ('tasks', 'tasks_by_id', '1000000 1'),
    ('tasks', 'tasks_by_course', '1000000 100000 300 3 1'),
    ('tasks', 'tasks_ready', '500000 500000 500000 50000 50000 300 300 3 1 1 1'),
    ('tasks', 'tasks_leased', '1000 2'),
    ('tasks', 'tasks_running', '1000 100'),
    ('jobs', 'jobs', '10000 1000 1'),
    ('jobs', 'sqlite_autoindex_jobs_2', '10000 1000 1'),
    ('jobs', 'jobs_newest', '10000 1000 1 1'),
    ('jobs', 'jobs_open', '1000 100'),
    ('job_subjects', 'job_subjects', '300000 30000 100 1'),
    ('job_subjects', 'job_subjects_by_subject', '300000 30000 300'),
    ('objects', 'objects', '1000000 100000 1'),
    ('objects', 'objects_by_subject', '1000000 100000 100'),
    ('queues', 'queues', '40 20 10 1'),
    ('queues', 'queues_by_turn', '40 20 10 2 1'),
    ('subjects', 'subjects', '10000 1000 1'),
    ('tenants', 'tenants', '10 1');
ANALYZE sqlite_schema;
