-- The models of a worker alone, as a RegisterRequest of nothing else: what a fleet can do is asked at every submission, and a thousand
-- workers mostly hold the same. NULL: an earlier release registered it; `record` says so too.
ALTER TABLE workers ADD COLUMN models BYTEA;
