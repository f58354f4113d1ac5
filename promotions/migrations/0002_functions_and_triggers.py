"""Distance, the search boxes for the spatial index, rules between tables, the hold of a unit."""

from django.db import migrations

FUNCTIONS = """
-- Great-circle distance in km (mean Earth radius); null for an unknown place. The haversine by
-- way of cosines: right to 0.2 m near zero, and free of the squares of tiny numbers, for which
-- PostgreSQL raises "underflow": one odd place would stop the fan-out for everybody.
CREATE FUNCTION promotions_distance_km(lat1 float8, lon1 float8, lat2 float8, lon2 float8)
RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 12742.0176 * asin(least(1.0, sqrt((
        1 - cosd(lat2 - lat1) + cosd(lat1) * cosd(lat2) * (1 - cosd(lon2 - lon1))) / 2)))
$$;

-- The boxes in degrees that hold every place within km: two where the circle crosses the
-- antimeridian, the full circle of longitudes where it holds a pole. Slightly too large, so
-- that rounding excludes nobody; promotions_distance_km then decides.
CREATE FUNCTION promotions_boxes(latitude float8, longitude float8, km float8)
RETURNS SETOF box LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1 AS $$
    WITH reach AS (
        SELECT degrees(greatest(km, 0.001) / 6371.0088) + 1e-5 AS dlat
    ), span AS (
        SELECT dlat,
               CASE WHEN abs(latitude) + dlat < 90
                    THEN degrees(asin(least(1.0, sin(radians(dlat)) / cosd(latitude))))
                    ELSE 360 END AS dlon
        FROM reach
    )
    SELECT box(point(greatest(longitude - dlon, -180), latitude - dlat),
               point(least(longitude + dlon, 180), latitude + dlat)) FROM span
    UNION ALL
    SELECT box(point(longitude - dlon + 360, latitude - dlat), point(180, latitude + dlat))
    FROM span WHERE dlon < 180 AND longitude - dlon < -180
    UNION ALL
    SELECT box(point(-180, latitude - dlat), point(longitude + dlon - 360, latitude + dlat))
    FROM span WHERE dlon < 180 AND longitude + dlon > 180
$$;
"""

DROP_FUNCTIONS = """
DROP FUNCTION promotions_boxes(float8, float8, float8);
DROP FUNCTION promotions_distance_km(float8, float8, float8, float8);
"""

# A time zone that PostgreSQL does not know would stop the fan-out for everybody: the cast
# refuses the row instead (SQLSTATE 22023).
TIME_ZONE = """
ALTER TABLE promotions_shopperprofile ADD CONSTRAINT shopper_time_zone_known
CHECK (timezone(time_zone, timestamptz '2000-01-01 00:00:00+00') IS NOT NULL);
"""
DROP_TIME_ZONE = "ALTER TABLE promotions_shopperprofile DROP CONSTRAINT shopper_time_zone_known;"

# held and completed follow the reservations, whatever writes them; the promo's check
# constraint then refuses what would oversell.
COUNTERS = """
CREATE FUNCTION promotions_count_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE promotions_flashpromo
    SET held = held + (NEW.status = 'HELD')::int,
        completed = completed + (NEW.status = 'COMPLETED')::int
    WHERE id = NEW.promo_id;
    RETURN NULL;
END
$$;
CREATE FUNCTION promotions_count_reservations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE promotions_flashpromo promo
        SET held = promo.held - change.held, completed = promo.completed - change.completed
        FROM (SELECT promo_id,
                     count(*) FILTER (WHERE status = 'HELD') AS held,
                     count(*) FILTER (WHERE status = 'COMPLETED') AS completed
              FROM old_rows GROUP BY promo_id) change
        WHERE promo.id = change.promo_id AND (change.held > 0 OR change.completed > 0);
    ELSE
        UPDATE promotions_flashpromo promo
        SET held = promo.held + change.held, completed = promo.completed + change.completed
        FROM (SELECT promo_id, sum(held) AS held, sum(completed) AS completed
              FROM (SELECT promo_id, (status = 'HELD')::int AS held,
                           (status = 'COMPLETED')::int AS completed FROM new_rows
                    UNION ALL
                    SELECT promo_id, -(status = 'HELD')::int,
                           -(status = 'COMPLETED')::int FROM old_rows) row_changes
              GROUP BY promo_id) change
        WHERE promo.id = change.promo_id AND (change.held <> 0 OR change.completed <> 0);
    END IF;
    RETURN NULL;
END
$$;
-- Made one by one, and often; changed and removed by the thousand.
CREATE TRIGGER count_inserted AFTER INSERT ON promotions_reservation
    FOR EACH ROW WHEN (NEW.status IN ('HELD', 'COMPLETED'))
    EXECUTE FUNCTION promotions_count_reservation();
CREATE TRIGGER count_updated AFTER UPDATE ON promotions_reservation
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION promotions_count_reservations();
CREATE TRIGGER count_deleted AFTER DELETE ON promotions_reservation
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION promotions_count_reservations();
"""
DROP_COUNTERS = """
DROP TRIGGER count_inserted ON promotions_reservation;
DROP TRIGGER count_updated ON promotions_reservation;
DROP TRIGGER count_deleted ON promotions_reservation;
DROP FUNCTION promotions_count_reservations();
DROP FUNCTION promotions_count_reservation();
"""

# The promo's price stays below the product's list price while the promo is to come or open.
# FOR SHARE makes a list price that changes at the same moment wait, and be checked in turn.
PRICES = """
CREATE FUNCTION promotions_check_promo_price() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    list_price_now numeric;
BEGIN
    SELECT list_price INTO list_price_now FROM promotions_product
    WHERE id = NEW.product_id FOR SHARE;
    IF NEW.promo_price >= list_price_now THEN
        RAISE EXCEPTION 'promo price % is not below the list price %',
            NEW.promo_price, list_price_now
            USING ERRCODE = 'check_violation', TABLE = 'promotions_flashpromo',
                  CONSTRAINT = 'promo_price_below_list_price';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER check_promo_price BEFORE INSERT OR UPDATE OF promo_price, product_id
    ON promotions_flashpromo
    FOR EACH ROW EXECUTE FUNCTION promotions_check_promo_price();

CREATE FUNCTION promotions_check_list_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM promotions_flashpromo
               WHERE product_id = NEW.id AND status IN ('SCHEDULED', 'ACTIVE')
                 AND promo_price >= NEW.list_price) THEN
        RAISE EXCEPTION 'list price % is not above the price of a scheduled or active promo',
            NEW.list_price
            USING ERRCODE = 'check_violation', TABLE = 'promotions_product',
                  CONSTRAINT = 'promo_price_below_list_price';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_list_price AFTER UPDATE OF list_price ON promotions_product
    FOR EACH ROW WHEN (NEW.list_price < OLD.list_price)
    EXECUTE FUNCTION promotions_check_list_price();
"""
DROP_PRICES = """
DROP TRIGGER check_list_price ON promotions_product;
DROP FUNCTION promotions_check_list_price();
DROP TRIGGER check_promo_price ON promotions_flashpromo;
DROP FUNCTION promotions_check_promo_price();
"""

# In PL/pgSQL for its plan, which the connection keeps: planning these joins costs more than the
# rest of the call. No row means no, for a reason that the caller finds out.
HOLD = """
CREATE FUNCTION promotions_hold(wanted_promo bigint, wanted_shopper bigint, hold_seconds int)
RETURNS TABLE (reservation_id bigint, held_until timestamptz, held_at timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    INSERT INTO promotions_reservation AS made (promo_id, shopper_id, status, reserved_until)
    SELECT promo.id, shopper.user_id, 'HELD', now() + hold_seconds * interval '1 second'
    FROM promotions_flashpromo promo
    JOIN promotions_product product ON product.id = promo.product_id
    JOIN promotions_store store ON store.id = product.store_id
    JOIN promotions_shopperprofile shopper ON shopper.user_id = wanted_shopper
    WHERE promo.id = wanted_promo
      AND promo.status = 'ACTIVE' AND promo.starts_at <= now() AND promo.ends_at > now()
      AND promo.held + promo.completed < promo.quantity
      AND (promo.eligible_segments = '{}' OR shopper.segment = ANY(promo.eligible_segments))
      AND promotions_distance_km(
            store.latitude, store.longitude, shopper.latitude, shopper.longitude)
          <= promo.max_distance_km
    ON CONFLICT (promo_id, shopper_id) WHERE status = 'HELD' DO NOTHING
    RETURNING made.id, made.reserved_until, made.created_at;
END
$$;
"""
DROP_HOLD = "DROP FUNCTION promotions_hold(bigint, bigint, int);"

# A fan-out leaves the inactive users out, who are few.
INACTIVE_USERS = "CREATE INDEX auth_user_inactive ON auth_user (id) WHERE NOT is_active;"
DROP_INACTIVE_USERS = "DROP INDEX auth_user_inactive;"


class Migration(migrations.Migration):
    dependencies = [("promotions", "0001_initial")]

    operations = [
        migrations.RunSQL(FUNCTIONS, DROP_FUNCTIONS),
        migrations.RunSQL(TIME_ZONE, DROP_TIME_ZONE),
        migrations.RunSQL(COUNTERS, DROP_COUNTERS),
        migrations.RunSQL(PRICES, DROP_PRICES),
        migrations.RunSQL(HOLD, DROP_HOLD),
        migrations.RunSQL(INACTIVE_USERS, DROP_INACTIVE_USERS),
    ]
