
-- For callers that need not know the schema `piton`.

CREATE OR REPLACE VIEW processor_checkpoints AS SELECT * FROM piton.processor_checkpoints;
