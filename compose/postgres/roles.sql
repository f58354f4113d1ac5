-- The application's role, run in the database `postgres` before each start of the server, in its
-- single-user mode: nobody is connected. flash_promos.application and flash_promos.password say who.
DO $$
DECLARE
    app text := current_setting('flash_promos.application');
    first_role text := (SELECT rolname FROM pg_roles WHERE oid = 10);
BEGIN
    -- Volumes of earlier versions: the application is the first role, a superuser for ever. That
    -- role goes on as `postgres`, and the application gets one of its own. Nobody may rename the
    -- role that he is, so another does.
    IF first_role <> 'postgres' THEN
        CREATE ROLE flash_promos_renames SUPERUSER;
        SET SESSION AUTHORIZATION flash_promos_renames;
        EXECUTE format('ALTER ROLE %I RENAME TO postgres', first_role);
        SET SESSION AUTHORIZATION postgres;
        DROP ROLE flash_promos_renames;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = app) THEN
        EXECUTE format('CREATE ROLE %I', app);
    END IF;
    EXECUTE format(
        'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD %L',
        app, current_setting('flash_promos.password')
    );
    ALTER ROLE postgres PASSWORD NULL;
    REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
END $$;
