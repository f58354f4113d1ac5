-- The application's database belongs to its role with all that is in it, and to nobody else. Run
-- after roles.sql, in that database.
DO $$
DECLARE
    app text := current_setting('flash_promos.application');
    -- Who may own it instead: the superuser, in volumes of earlier versions, or a former POSTGRES_USER.
    former oid[] := ARRAY[10, (SELECT datdba FROM pg_database WHERE datname = current_database())];
    kind text;
    name text;
BEGIN
    SET LOCAL search_path = pg_catalog;
    FOR kind, name IN
        SELECT object.kind, object.name
        FROM (
            SELECT 1 AS turn, 'SCHEMA' AS kind, quote_ident(nspname) AS name, nspowner AS owner,
                   oid AS namespace, 'pg_namespace'::regclass AS catalog, oid
            FROM pg_namespace WHERE nspname <> 'public'
            UNION ALL
            SELECT 2, 'TABLE', oid::regclass::text, relowner, relnamespace, 'pg_class'::regclass, oid
            FROM pg_class
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
               -- A column's sequence goes with its table.
               OR relkind = 'S' AND NOT EXISTS (
                   SELECT FROM pg_depend
                   WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid
                     AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
               )
            UNION ALL
            SELECT 3, 'ROUTINE', oid::regprocedure::text, proowner, pronamespace,
                   'pg_proc'::regclass, oid
            FROM pg_proc
            UNION ALL
            SELECT 4, 'TYPE', oid::regtype::text, typowner, typnamespace, 'pg_type'::regclass, oid
            FROM pg_type
            WHERE typtype IN ('d', 'e', 'r')
               OR EXISTS (SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c')
        ) AS object
        JOIN pg_namespace ON pg_namespace.oid = object.namespace
        WHERE object.owner = ANY (former)
          AND object.owner <> (SELECT oid FROM pg_roles WHERE rolname = app)
          AND nspname !~ '^pg_' AND nspname <> 'information_schema'
          -- What an extension brought along stays with it.
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = object.catalog AND objid = object.oid AND deptype = 'e'
          )
        ORDER BY object.turn, object.oid
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', kind, name, app);
    END LOOP;
    ALTER SCHEMA public OWNER TO pg_database_owner;
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    EXECUTE format('ALTER DATABASE %I OWNER TO %I', current_database(), app);
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
END $$;
