// What CSV to PostgreSQL is compared with: the job that Spring Batch's reference manual describes
// for it, by hand where that is quicker than what it maps by itself. One step in chunks of 1,000;
// the job's repository in the same database, so that a chunk and its place commit together.
//
//   java Load JDBC_URL CSV RUN
//
// RUN identifies the job's instance: the same RUN again is a restart. Ends with one line of JSON:
// what the step took by itself, without the start of the JVM and of Spring.

import com.sun.management.OperatingSystemMXBean;
import com.zaxxer.hikari.HikariDataSource;
import java.lang.management.ManagementFactory;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Types;
import java.time.OffsetDateTime;
import javax.sql.DataSource;
import org.springframework.batch.core.BatchStatus;
import org.springframework.batch.core.ExitStatus;
import org.springframework.batch.core.configuration.annotation.EnableBatchProcessing;
import org.springframework.batch.core.configuration.annotation.EnableJdbcJobRepository;
import org.springframework.batch.core.job.Job;
import org.springframework.batch.core.job.builder.JobBuilder;
import org.springframework.batch.core.job.parameters.JobParametersBuilder;
import org.springframework.batch.core.launch.JobOperator;
import org.springframework.batch.core.listener.StepExecutionListener;
import org.springframework.batch.core.repository.JobRepository;
import org.springframework.batch.core.step.Step;
import org.springframework.batch.core.step.StepExecution;
import org.springframework.batch.core.step.builder.StepBuilder;
import org.springframework.batch.infrastructure.item.database.JdbcBatchItemWriter;
import org.springframework.batch.infrastructure.item.database.builder.JdbcBatchItemWriterBuilder;
import org.springframework.batch.infrastructure.item.file.FlatFileItemReader;
import org.springframework.batch.infrastructure.item.file.builder.FlatFileItemReaderBuilder;
import org.springframework.batch.infrastructure.item.file.transform.FieldSet;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.io.ClassPathResource;
import org.springframework.core.io.FileSystemResource;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.init.ResourceDatabasePopulator;
import org.springframework.jdbc.support.JdbcTransactionManager;

@Configuration
@EnableBatchProcessing
@EnableJdbcJobRepository
public class Load {
  private static final int CHUNK = 1000;
  private static final String[] COLUMNS = {
    "id", "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time",
    "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum", "origin", "dest", "air_time",
    "distance", "hour", "minute", "time_hour"
  };

  record Flight(
      long id, Integer year, Integer month, Integer day, Integer depTime, Integer schedDepTime,
      Integer depDelay, Integer arrTime, Integer schedArrTime, Integer arrDelay, String carrier,
      long flight, String tailnum, String origin, String dest, Integer airTime, Integer distance,
      Integer hour, Integer minute, OffsetDateTime timeHour) {

    static Flight of(FieldSet fields) {
      return new Flight(
          fields.readLong(0), integer(fields, 1), integer(fields, 2), integer(fields, 3),
          integer(fields, 4), integer(fields, 5), integer(fields, 6), integer(fields, 7),
          integer(fields, 8), integer(fields, 9), text(fields, 10), fields.readLong(11),
          text(fields, 12), text(fields, 13), text(fields, 14), integer(fields, 15),
          integer(fields, 16), integer(fields, 17), integer(fields, 18),
          OffsetDateTime.parse(fields.readString(19)));
    }

    private static Integer integer(FieldSet fields, int column) {
      String text = text(fields, column);
      return text == null ? null : Integer.valueOf(text);
    }

    private static String text(FieldSet fields, int column) {
      String text = fields.readString(column);
      return text.equals("NA") ? null : text;
    }

    void bind(PreparedStatement row) throws SQLException {
      row.setLong(1, id);
      bind(row, 2, year, month, day, depTime, schedDepTime, depDelay, arrTime, schedArrTime,
          arrDelay);
      row.setString(11, carrier);
      row.setLong(12, flight);
      row.setString(13, tailnum);
      row.setString(14, origin);
      row.setString(15, dest);
      bind(row, 16, airTime, distance, hour, minute);
      row.setObject(20, timeHour);
    }

    private static void bind(PreparedStatement row, int from, Integer... values)
        throws SQLException {
      for (int n = 0; n < values.length; n++) {
        if (values[n] == null) {
          row.setNull(from + n, Types.INTEGER);
        } else {
          row.setInt(from + n, values[n]);
        }
      }
    }
  }

  /** What a step takes, by the clock and of the processor. */
  static final class Taken implements StepExecutionListener {
    private long nanos;
    private long cpuNanos;

    @Override
    public void beforeStep(StepExecution step) {
      nanos = -System.nanoTime();
      cpuNanos = -cpu();
    }

    @Override
    public ExitStatus afterStep(StepExecution step) {
      nanos += System.nanoTime();
      cpuNanos += cpu();
      return step.getExitStatus();
    }

    String json() {
      return "{\"seconds\":" + nanos / 1e9 + ",\"cpu\":" + cpuNanos / 1e9 + "}";
    }

    private static long cpu() {
      return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
          .getProcessCpuTime();
    }
  }

  @Bean
  HikariDataSource dataSource() {
    HikariDataSource source = new HikariDataSource();
    source.setJdbcUrl(System.getProperty("load.url"));
    source.addDataSourceProperty("reWriteBatchedInserts", "true");
    return source;
  }

  @Bean
  JdbcTransactionManager transactionManager(DataSource dataSource) {
    return new JdbcTransactionManager(dataSource);
  }

  @Bean
  FlatFileItemReader<Flight> reader() {
    return new FlatFileItemReaderBuilder<Flight>()
        .name("flights")
        .resource(new FileSystemResource(System.getProperty("load.csv")))
        .linesToSkip(1)
        .delimited(columns -> columns.names(COLUMNS))
        .fieldSetMapper(Flight::of)
        .build();
  }

  @Bean
  JdbcBatchItemWriter<Flight> writer(DataSource dataSource) {
    String names = String.join(", ", COLUMNS);
    String marks = "?, ".repeat(COLUMNS.length - 1) + "?";
    return new JdbcBatchItemWriterBuilder<Flight>()
        .dataSource(dataSource)
        .sql("INSERT INTO target (" + names + ") VALUES (" + marks + ")")
        .itemPreparedStatementSetter(Flight::bind)
        // The driver does not tell how many rows each part of a rewritten insert has added.
        .assertUpdates(false)
        .build();
  }

  @Bean
  Taken taken() {
    return new Taken();
  }

  @Bean
  Step loadStep(
      JobRepository repository, JdbcTransactionManager transactions,
      FlatFileItemReader<Flight> reader, JdbcBatchItemWriter<Flight> writer, Taken taken) {
    return new StepBuilder("load", repository)
        .<Flight, Flight>chunk(CHUNK)
        .transactionManager(transactions)
        .reader(reader)
        .writer(writer)
        .listener((StepExecutionListener) taken)
        .build();
  }

  @Bean
  Job flightsJob(JobRepository repository, Step loadStep) {
    return new JobBuilder("flights", repository).start(loadStep).build();
  }

  /** The tables of the repository, the first time. */
  private static void prepare(DataSource source) {
    String table = new JdbcTemplate(source)
        .queryForObject("SELECT to_regclass('batch_job_instance')::text", String.class);
    if (table == null) {
      String schema = "org/springframework/batch/core/schema-postgresql.sql";
      new ResourceDatabasePopulator(new ClassPathResource(schema)).execute(source);
    }
  }

  public static void main(String[] args) throws Exception {
    System.setProperty("load.url", args[0]);
    System.setProperty("load.csv", args[1]);
    try (var context = new AnnotationConfigApplicationContext(Load.class)) {
      prepare(context.getBean(DataSource.class));
      var parameters = new JobParametersBuilder().addString("run", args[2]).toJobParameters();
      var ended =
          context.getBean(JobOperator.class).start(context.getBean(Job.class), parameters);
      if (ended.getStatus() != BatchStatus.COMPLETED) {
        ended.getAllFailureExceptions().forEach(Throwable::printStackTrace);
        throw new IllegalStateException("the job ended as " + ended.getStatus());
      }
      System.out.println(context.getBean(Taken.class).json());
    }
  }
}
